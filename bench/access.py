"""Access: what a decision costs, fresh and kept, with 10 to 1,000 rules and grants; the audit.

python bench/access.py [--quick]
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _report import arguments, quantile, show, write

from aios_core import Kernel, KernelConfig
from aios_core.access.audit.chain import GENESIS, Row, chain_hash, verify
from aios_core.access.policy.privileges import Privileges
from aios_core.access.policy.rules import Condition, Effect, Policy, Rule
from aios_core.cores.scripted import ScriptedCore
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.process import ProcessTable

DECISION_CAPTION = (
    "Fresh: worked out from all rules and grants. Kept: how the agent stands to the resource is "
    "known, arguments and\nlabels are looked at. Baseline: one look into a dictionary of what is "
    "allowed. Half of the rules are about every agent,\na third about arguments. Policy engines "
    "decide by rules alone, read beforehand; ours looks at as many grants as well."
)
SYSCALL_CAPTION = (
    "memory.read of a small block, on the kernel's loop, with a state directory on disk. off: no "
    "audit trail. A record of\neach decision and each effect is written with the next commit."
)


def timed(name: str, step: Callable[[], object], number: int, **facts: Any) -> dict[str, Any]:
    """Times of `number` steps, one after the other, in microseconds."""
    took = []
    for _ in range(number):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    return {
        "what": name,
        "p50_us": 1e6 * quantile(took, 0.5),
        "p99_us": 1e6 * quantile(took, 0.99),
        "per_second": number / sum(took),
        **facts,
    }


def file_of(owner: str, number: int) -> Resource:
    return Resource("file", owner, f"/docs/{number}.txt")


def policy_of(num_rules: int) -> Policy:
    """Rules about tools and files: half about every agent, every third with a condition."""
    rules = [
        Rule(
            f"rule {n}",
            Effect.DENY if n % 3 else Effect.ALLOW,
            agents=("*",) if n % 2 else (f"group:team{n % 20}", f"default/agent{n}*"),
            actions=("storage.*", "tool.run") if n % 4 else ("memory.*",),
            resources=(f"file:*:/secret/{n}", f"tool::tool{n}"),
            when=(Condition("amount", "above", n),) if n % 3 == 0 else (),
        )
        for n in range(num_rules)
    ]
    return Policy(tuple(rules))


def grants_of(owner: str, number: int) -> Iterator[Grant]:
    """As many grants of one agent, the last of which is the one that matters."""
    for n in range(number):
        receiver = "default/reader" if n == number - 1 else f"default/other{n}"
        yield Grant(file_of(owner, n), receiver, frozenset({Right.READ}), owner, 0.0, None)


def decisions(num_rules: int, number: int) -> list[dict[str, Any]]:
    """One agent that reads another's file by a grant, under a policy of that many rules."""
    table = ProcessTable()
    process = table.spawn("reader", now=0.0)
    privileges = Privileges(policy_of(num_rules), time.time)
    owner = "default/owner"
    for grant in grants_of(owner, num_rules):
        privileges.grants.put(grant)
    privileges.invalidate()
    resource = file_of(owner, num_rules - 1)
    access = Access("storage.read", Right.READ, resource, {"path": resource.name, "amount": 5})
    decision, _ = privileges.decide(process, access)
    if decision.effect is not Effect.ALLOW:
        raise SystemExit(f"the grant does not hold: {decision}")

    def fresh() -> None:
        privileges._kept.clear()  # noqa: SLF001
        privileges.decide(process, access)

    allowed = {("storage.read", Right.READ, resource)}
    facts = {"rules": num_rules, "grants": num_rules}
    return [
        timed(
            "dictionary",
            lambda: (access.action, access.right, access.resource) in allowed,
            number,
            **facts,
        ),
        timed("kept", lambda: privileges.decide(process, access), number, **facts),
        timed("fresh", fresh, number // 4, **facts),
    ]


def engines(num_rules: int, number: int) -> list[dict[str, Any]]:
    """Ask the installed policy engines the question that the kernel answers."""
    rows = []
    for name, make in (("Cedar (cedarpy)", cedar), ("Casbin", casbin)):
        try:
            step = make(num_rules)
        except ModuleNotFoundError:
            continue
        rows.append(timed(name, step, number, rules=num_rules))
    return rows


def cedar(num_rules: int) -> Callable[[], object]:
    """Cedar through its Python binding, the policies parsed beforehand."""
    import cedarpy  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - if it is here

    rules = [
        f'forbid(principal in Group::"team{n % 20}", action == Action::"tool.run", '
        f'resource == Tool::"tool{n}") when {{ context.amount > {n} }};'
        for n in range(num_rules)
    ]
    rules.append(
        'permit(principal == User::"reader", action == Action::"storage.read", '
        'resource == File::"docs");'
    )
    policies = cedarpy.PolicySet.from_str("\n".join(rules))
    entities = cedarpy.Entities.from_json_str("[]")
    request = {
        "principal": 'User::"reader"',
        "action": 'Action::"storage.read"',
        "resource": 'File::"docs"',
        "context": {"amount": 5},
    }
    return lambda: cedarpy.is_authorized(request, policies, entities)


def casbin(num_rules: int) -> Callable[[], object]:
    """Casbin with roles and paths, its rules loaded beforehand."""
    import casbin  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - if it is here

    model = casbin.model.Model()
    model.load_model_from_text(
        """
        [request_definition]
        r = sub, act, obj
        [policy_definition]
        p = sub, act, obj, eft
        [role_definition]
        g = _, _
        [policy_effect]
        e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
        [matchers]
        m = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && r.act == p.act
        """
    )
    enforcer = casbin.Enforcer(model)
    for n in range(num_rules):
        enforcer.add_policy(f"team{n % 20}", "tool.run", f"tool{n}", "deny")
    enforcer.add_policy("reader", "storage.read", "/docs", "allow")
    return lambda: enforcer.enforce("reader", "storage.read", "/docs")


async def syscalls(directory: Path, audit: str, number: int) -> dict[str, Any]:
    """A syscall through the gate, with an audit trail and without."""
    config = KernelConfig(
        state={"directory": str(directory)},
        access={"audit": audit},
        drain_s=0.0,
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")
        await agent.memory.awrite("block", b"x")
        took = []
        for _ in range(number):
            began = time.perf_counter()
            await agent.memory.aread("block")
            took.append(time.perf_counter() - began)
    return {
        "what": f"memory.read, audit {audit}",
        "p50_us": 1e6 * quantile(took, 0.5),
        "p99_us": 1e6 * quantile(took, 0.99),
        "per_second": number / sum(took),
    }


def verification(number: int) -> dict[str, Any]:
    """Measure how fast a chain of records is verified."""
    chain, last = [], GENESIS
    for n in range(1, number + 1):
        record = json.dumps({"at": n, "event": "allowed", "agent": "default/alice"}).encode()
        last = chain_hash(last, n, record)
        chain.append(Row(n, record, last))
    began = time.perf_counter()
    if not verify(chain, ()).is_intact:
        raise SystemExit("the chain does not hold")
    took = time.perf_counter() - began
    return {"what": "audit verify", "records": number, "per_second": number / took}


def main() -> None:
    options = arguments(__doc__)
    number = 2_000 if options.quick else 20_000
    sizes = (10, 100) if options.quick else (10, 100, 1_000)
    decided = []
    for num_rules in sizes:
        decided += decisions(num_rules, number)
        decided += engines(num_rules, max(20, number // (2 * num_rules)))
    columns = {
        "": "{what}",
        "rules": "{rules:,}",
        "grants": "{grants:,}",
        "p50 us": "{p50_us:.2f}",
        "p99 us": "{p99_us:.2f}",
        "per second": "{per_second:,.0f}",
    }
    show("A decision", columns, decided, DECISION_CAPTION)
    if not any("grants" not in row for row in decided):
        print("Policy engines: skipped; pip install cedarpy casbin\n")
    with tempfile.TemporaryDirectory() as place:
        served = [
            asyncio.run(syscalls(Path(place) / audit, audit, number // 2))
            for audit in ("off", "effects", "all")
        ]
    columns = {name: columns[name] for name in ("", "p50 us", "p99 us", "per second")}
    show("A syscall through the gate", columns, served, SYSCALL_CAPTION)
    verified = verification(number * 5)
    print(f"Audit trail: {verified['per_second']:,.0f} records verified a second\n")
    write("access", [*decided, *served, verified])


if __name__ == "__main__":
    main()
