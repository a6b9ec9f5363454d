"""Read a policy from TOML. A mistake is reported with its line, its rule and what is allowed.

    [groups.interns]
    inherits = ["staff"]

    [[rules]]
    name = "large payments"
    effect = "ask"
    actions = ["tool.run"]
    resources = ["tool::pay"]
    when.amount = {above = 100}

Pure, but for `load_policy`, which reads the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from aios_core.access.policy.operators import OPERATORS
from aios_core.access.policy.rules import (
    NEGATION,
    Condition,
    Effect,
    GroupRule,
    Policy,
    Rule,
    matches,
)
from aios_core.config_decoder import Place, decode
from aios_core.errors import ConfigError
from aios_core.grants import GROUP
from aios_core.permissions import Right
from aios_core.process import DEFAULT_GROUP
from aios_core.suggestions import suggest
from aios_core.syscalls import known_kinds

RightName = Literal["read", "write", "execute", "share"]


@dataclass(frozen=True, slots=True)
class _RuleTable:
    effect: Literal["allow", "ask", "deny"]
    name: str | None = None
    agents: tuple[str, ...] = ("*",)
    actions: tuple[str, ...] = ("*",)
    rights: tuple[RightName, ...] = ("read", "write", "execute", "share")
    resources: tuple[str, ...] = ("*",)
    labels: tuple[str, ...] = ()
    when: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preapproved: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _GroupTable:
    inherits: tuple[str, ...] = ()
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _PolicyTable:
    groups: Mapping[str, _GroupTable] = field(default_factory=dict)
    rules: tuple[_RuleTable, ...] = ()


def load_policy(path: Path, base: Policy) -> Policy:
    """Return `base` with the groups and rules of a file added. Raises `ConfigError`. Blocks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            "access.policy", str(path), f"a TOML file that can be read ({exc})"
        ) from exc
    return parse_policy(text, base, source=str(path))


def parse_policy(text: str, base: Policy, *, source: str = "policy") -> Policy:
    """Return `base` with the groups and rules of a text added. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError("access.policy", str(exc), "valid TOML", source) from exc
    try:
        table: _PolicyTable = decode(_PolicyTable, raw, Place("", source))
        groups = dict(base.groups)
        for name, group in table.groups.items():
            above = groups.get(name, GroupRule())
            groups[name] = GroupRule(above.inherits + group.inherits, group.members)
        require_acyclic(groups)
        rules = tuple(_rule(rule, number) for number, rule in enumerate(table.rules))
        _refuse_namesakes(rules)
    except ConfigError as exc:
        where = _line_of(text, exc.key)
        raise ConfigError(exc.key, exc.got, exc.allowed, f"{source}{where}") from exc
    return replace(base, rules=base.rules + rules, groups=groups)


def require_acyclic(groups: Mapping[str, GroupRule]) -> None:
    """Raise `ConfigError` if a group inherits itself."""
    for name in groups:
        reached, waiting = set[str](), list(groups[name].inherits)
        while waiting:
            above = waiting.pop()
            if above == name:
                got = groups[name].inherits
                raise ConfigError(f"groups.{name}.inherits", got, "groups that do not inherit it")
            if above not in reached:
                reached.add(above)
                waiting += groups[above].inherits if above in groups else ()


def _rule(table: _RuleTable, number: int) -> Rule:
    key = f"rules[{number}]"
    if table.preapproved and table.effect != "allow":
        raise ConfigError(f"{key}.preapproved", True, "true only where effect is 'allow'")
    for part in ("agents", "actions", "rights", "resources"):
        if not getattr(table, part):
            raise ConfigError(f"{key}.{part}", [], "at least one; ['*'] means all")
    _refuse_strangers(table.agents, f"{key}.agents")
    _refuse_unknown(table.actions, f"{key}.actions")
    return Rule(
        name=table.name or f"rule {number + 1}",
        effect=Effect(table.effect),
        agents=table.agents,
        actions=table.actions,
        rights=frozenset(map(Right, table.rights)),
        resources=table.resources,
        labels=table.labels,
        when=tuple(
            _condition(argument, operator, operand, f"{key}.when.{argument}")
            for argument, asked in table.when.items()
            for operator, operand in asked.items()
        ),
        preapproved=table.preapproved,
        reason=table.reason,
    )


def _refuse_strangers(agents: tuple[str, ...], key: str) -> None:
    """Raise `ConfigError` for a bare name, since identities start with a group."""
    for agent in agents:
        if not agent.startswith(GROUP) and not set(agent) & {"/", "*", "?"}:
            allowed = f"an identity such as '{DEFAULT_GROUP}/{agent}', 'group:NAME' or '*'"
            raise ConfigError(key, agent, allowed)


def _refuse_unknown(actions: tuple[str, ...], key: str) -> None:
    """Raise `ConfigError` for an unknown action."""
    known = known_kinds()
    for action in actions:
        if not any(matches(action, kind) for kind in known):
            hint, listed = suggest(action, known), ", ".join(sorted(known))
            allowed = f"patterns of {listed}"
            raise ConfigError(key, action, f"{hint} {allowed}" if hint else allowed)


def _condition(argument: str, operator: str, operand: Any, key: str) -> Condition:
    known = OPERATORS.get(operator.removeprefix(NEGATION))
    if known is None:
        names = [name for one in OPERATORS for name in (one, NEGATION + one)]
        hint = suggest(operator, names)
        allowed = f"one of {', '.join(names)}"
        raise ConfigError(f"{key}.{operator}", operator, f"{hint} {allowed}" if hint else allowed)
    values = operand if isinstance(operand, list) and known.is_list else [operand]
    for value in values:
        is_odd_bool = isinstance(value, bool) and not known.is_list
        if not isinstance(value, known.operand) or is_odd_bool:
            raise ConfigError(f"{key}.{operator}", operand, known.allowed)
    return Condition(argument, operator, values if known.is_list else operand)


def _refuse_namesakes(rules: tuple[Rule, ...]) -> None:
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        if rule.name in seen:
            raise ConfigError(f"rules[{number}].name", rule.name, "a name that no other rule has")
        seen.add(rule.name)


_RULE: Final = re.compile(r"rules\[(\d+)\]")
_GROUP: Final = re.compile(r"groups\.([^.]+)")


def _line_of(text: str, key: str) -> str:
    """Return the line where the table of a key starts, as text; "" if it is not found."""
    lines = text.splitlines()
    if found := _RULE.match(key):
        starts = [n for n, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*rules\s*\]\]", line)]
        number = int(found[1])
        return f", line {starts[number]}" if number < len(starts) else ""
    if found := _GROUP.match(key):
        named = re.compile(rf"""\s*\[\s*groups\s*\.\s*["']?{re.escape(found[1])}["']?\s*\]""")
        return next((f", line {n}" for n, line in enumerate(lines, 1) if named.match(line)), "")
    return ""
