"""Labels follow values, names, listings and errors to every agent that reads them.

A matrix: every store, every way to learn something of it, every kind of reader. An agent that has
read something of an origin carries its label, and a rule about that label then applies to it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.access import AccessCheck, AccessList
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import KernelError
from aios_core.grants import AccessGrant, AccessRevoke
from aios_core.memory.requests import (
    MemoryRead,
    MemoryWrite,
)
from aios_core.memory.schema import SCHEMA as MEMORY
from aios_core.permissions import Access, Resource, Right
from aios_core.state import StateOpener
from aios_core.storage.schema import SCHEMA as STORAGE
from aios_core.syscalls import Discloses, LLMGenerate
from aios_core.tools import ToolContext
from aios_core.tools.registry import Plugin, compile_tools
from aios_core.tools.requests import (
    ToolInDoubtList,
    ToolList,
    ToolLoad,
    ToolRead,
    ToolRun,
    ToolUnload,
)

from .label_rig import (
    READERS,
    SECRET,
    STORES,
    WEB,
    Embedder,
    Store,
    cells,
    fill,
    forget,
    kernel,
    labels_of,
    learn,
    require_kept_in,
    shared,
    take,
    through_a_tool,
    tool,
)

__all__ = ["kernel"]  # a fixture


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("store", "channel"), [*cells()])
async def test_an_agent_that_learns_something_carries_its_labels(
    kernel: Kernel, store: Store, channel: str, reader: str
) -> None:
    boss = await kernel.aspawn("boss")
    alice = await kernel.aspawn("alice", parent=boss.pid if reader == "parent" else None)
    await fill(kernel, store, channel, alice)
    if reader in ("next life", "child", "port"):
        await kernel.aexit(alice.pid)
        alice = await kernel.aspawn("alice")
    bob = await kernel.aspawn("bob")

    for request in store.requests(channel):
        forget(kernel, alice)
        forget(kernel, boss)
        marked, said = (alice,), ""
        match reader:
            case "peer":
                bob = await kernel.aspawn("bob")
                said = await learn(bob, await shared(alice, store, request, bob.identity))
                marked = (bob,)
                if request.kind == "memory.measure" or (channel == "error" and SECRET not in said):
                    continue  # that is of one's own alone; and a guest's error names nothing
            case "port":
                await through_a_tool(alice, request)
            case "child":
                await learn(alice, request)
                marked = (await kernel.aspawn("child", parent=alice.pid),)
            case "parent":
                await learn(alice, request)
                marked = (alice, boss)
            case _:
                said = await learn(alice, request)
        for agent in marked:
            await require_kept_in(kernel, agent, request)


# --- beyond the stores ---------------------------------------------------------------------------

LISTED: Mapping[str, str] = {  # content that comes from elsewhere; each has a test below
    "tool.run": "test_results_and_errors_of_a_tool_carry_its_label",
    "tool.read": "test_a_large_result_is_read_with_its_labels_after_a_restart",
    "tool.list": "test_tool_descriptions_of_an_outsider_carry_its_label",
    "tool.load": "test_a_tools_name_carries_the_labels_of_the_agent_that_offers_it",
    "tool.unload": "test_a_tools_name_carries_the_labels_of_the_agent_that_offers_it",
    "tool.in_doubt": "test_a_doubtful_call_carries_its_callers_labels",
    "access.list": "test_a_grant_carries_the_labels_of_its_grantor",
    "access.check": "test_a_grant_carries_the_labels_of_its_grantor",
}


async def test_every_request_says_whether_it_discloses_content_and_all_that_do_are_tested(
    kernel: Kernel,
) -> None:
    kinds = [kind for one in kernel._inside.parts.traps.managers for kind in one.requests]
    told = {kind.kind: kind.discloses for kind in (*kinds, LLMGenerate)}
    tested = {
        request.kind for store in STORES.values() for request in (*store.value, *store.listing)
    }

    assert [kind for kind, discloses in told.items() if discloses is None] == []
    content = {kind for kind, discloses in told.items() if discloses is Discloses.CONTENT}
    assert content - tested == LISTED.keys()
    assert set(LISTED.values()) <= globals().keys()


async def test_a_child_starts_with_its_parents_labels_and_passes_its_own_up(
    kernel: Kernel,
) -> None:
    boss = await kernel.aspawn("boss")
    take(kernel, boss, frozenset({"mail"}))
    child = await kernel.aspawn("child", parent=boss.pid)
    grandchild = await kernel.aspawn("grandchild", parent=child.pid)
    other = await kernel.aspawn("other")
    assert labels_of(kernel, grandchild) == {"mail"}

    await grandchild.tools.aoffer(tool("fetch", lambda: "text", trusted=False))
    await grandchild.tools.arun("fetch")

    assert labels_of(kernel, child) == labels_of(kernel, boss) == {"mail", "tool:fetch"}
    await kernel.aexit(child.pid)
    assert "tool:fetch" in labels_of(kernel, boss)
    assert labels_of(kernel, other) == set()


async def test_what_a_tool_writes_through_its_port_carries_its_label(kernel: Kernel) -> None:
    alice, bob = await kernel.aspawn("alice"), await kernel.aspawn("bob")

    def fetch(context: ToolContext) -> str:
        context.port.call(MemoryWrite("page", "text"))
        context.port.call(AccessGrant(Resource("memory", alice.identity, "page"), bob.identity))
        return "kept"

    await alice.tools.aoffer(tool("fetch", fetch, trusted=False, context_name="context"))
    await alice.tools.arun("fetch")

    await bob.memory.aread("page", owner=alice.identity)
    assert labels_of(kernel, bob) == {"tool:fetch"}


async def test_code_carries_its_callers_labels_even_if_the_tool_drops_them(
    kernel: Kernel,
) -> None:
    given: list[frozenset[str]] = []

    class Runner:
        async def run_for(self, *_: Any, labels: frozenset[str] = frozenset(), **__: Any) -> None:
            given.append(labels)

        async def run_in_session(self, *_: Any, labels: frozenset[str], **__: Any) -> None:
            given.append(labels)

    async def execute(context: ToolContext) -> str:
        await context.code_runner.run_for(context.caller, "python", "1")
        await context.code_runner.run_in_session(context.caller, "s", "1", labels=frozenset("x"))
        return "ran"

    alice = await kernel.aspawn("alice")
    take(kernel, alice)
    kernel._inside.parts.tools._executor._code_runner = Runner()  # type: ignore[assignment]
    await alice.tools.aoffer(tool("run", execute, trusted=False, context_name="context"))

    await alice.tools.arun("run")

    assert given == [{"web", "tool:run"}, {"web", "tool:run", "x"}]


async def test_results_and_errors_of_a_tool_carry_its_label(kernel: Kernel) -> None:
    for name, function in (("fetch", lambda: "text"), ("fail", lambda: 1 // 0)):
        agent = await kernel.aspawn(name)
        await agent.tools.aoffer(tool(name, function, trusted=False))
        with suppress(KernelError):
            await agent.tools.arun(name)
        assert labels_of(kernel, agent) == {f"tool:{name}"}


async def test_a_large_result_is_read_with_its_labels_after_a_restart(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    await alice.tools.aoffer(tool("fetch", lambda: "x" * 100_000, trusted=False))
    stored = await alice.tools.arun("fetch")
    await kernel.aexit(alice.pid)
    again = await kernel.aspawn("alice")

    await again.port.acall(ToolRead(stored.reference))

    assert labels_of(kernel, again) == {"tool:fetch"}


async def test_tool_descriptions_of_an_outsider_carry_its_label(kernel: Kernel) -> None:
    foreign = Plugin("mcp:x", "MCP server x", (tool("x_do", len, trusted=False),), None, True)
    ours = Plugin("ours", "plug-in", (tool("ours", len, trusted=False),))
    registry = kernel._inside.parts.tools.catalog.registry
    registry.put("ours", compile_tools(ours))
    for request in (ToolList(), ToolRun("no_such_tool")):
        agent = await kernel.aspawn("early")
        await learn(agent, request)
        assert labels_of(kernel, agent) == set()  # the operator wrote that description

    registry.put("mcp:x", compile_tools(foreign))

    for request in (ToolList(), ToolRun("no_such_tool"), ToolUnload("no_such_tool")):
        agent = await kernel.aspawn("late")
        await learn(agent, request)
        if not isinstance(request, ToolUnload):  # refused: it gets no approval
            assert labels_of(kernel, agent) == {"tool:x_do"}


async def test_a_tools_name_carries_the_labels_of_the_agent_that_offers_it(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    take(kernel, alice)
    await alice.port.acall(ToolLoad(tool(SECRET, lambda: SECRET), is_private=True))

    for request in (ToolList(), ToolRun(SECRET), ToolRun("nope"), ToolUnload(SECRET, True)):
        forget(kernel, alice)
        await learn(alice, request)
        assert labels_of(kernel, alice) == WEB, request.kind


async def test_a_doubtful_call_carries_its_callers_labels(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    held = threading.Event()
    pay = tool("order", held.wait, read_only=False, timeout_s=0.01)
    await alice.tools.aoffer(replace(pay, parameters={"type": "object", "properties": {}}))
    take(kernel, alice)
    await learn(alice, ToolRun("order"))
    held.set()
    await kernel.aexit(alice.pid)
    again = await kernel.aspawn("alice")

    await again.port.acall(ToolInDoubtList())

    assert labels_of(kernel, again) == WEB


async def test_a_grant_carries_the_labels_of_its_grantor(kernel: Kernel) -> None:
    alice, bob = await kernel.aspawn("alice"), await kernel.aspawn("bob")
    what = Resource("memory", alice.identity, SECRET)
    await alice.memory.awrite(SECRET, "text")
    take(kernel, alice)
    await alice.port.acall(AccessGrant(what, bob.identity))

    wanted = Access("memory.read", Right.READ, what)
    for reader in (alice, bob):
        for request in (AccessList(), AccessCheck(wanted)):
            forget(kernel, reader)
            await learn(reader, request)
            assert labels_of(kernel, reader) == WEB, request.kind
    forget(kernel, alice)
    await learn(alice, AccessRevoke(what, "default/nobody"))  # names the grants that there are
    assert labels_of(kernel, alice) == WEB


async def test_a_saved_agent_keeps_its_labels(kernel: Kernel, tmp_path: Path) -> None:
    alice = await kernel.aspawn("alice")
    await alice.memory.awrite("notes", "text")
    take(kernel, alice)
    await kernel.asave_agent(alice.pid, tmp_path / "frozen")
    await kernel.aexit(alice.pid)

    again = await kernel.aload_agent(tmp_path / "frozen")

    assert labels_of(kernel, again) == WEB
    await require_kept_in(kernel, again, MemoryRead("notes"))


async def test_labels_and_names_survive_the_kernel(tmp_path: Path) -> None:
    def boot() -> Kernel:
        config = KernelConfig.load(environ={}, state={"directory": str(tmp_path / "state")})
        return Kernel(config, cores=[ScriptedCore("ok")], embedder=Embedder())

    durable = {name: store for name, store in STORES.items() if store.kind != "mount"}
    for store in durable.values():
        async with boot() as kernel:
            await fill(kernel, store, "name", await kernel.aspawn("alice"))
        async with boot() as kernel:
            alice = await kernel.aspawn("alice")
            for request in store.listing[:1]:
                await learn(alice, request)
                assert labels_of(kernel, alice) == WEB, request.kind


async def test_names_of_an_older_state_get_the_labels_of_their_first_content(
    tmp_path: Path,
) -> None:
    async def run(scripts: Mapping[str, tuple[str, ...]], *queries: str) -> list[Any]:
        opener = StateOpener(tmp_path / "state", lambda: None)
        for component, told in scripts.items():
            opener.add_migrations(component, told)
        state = await opener.open()
        done = [
            await state.database.awrite(lambda c, q=query: c.execute(q).fetchall())  # type: ignore[misc]
            for query in queries
        ]
        await opener.close()
        return done

    new = {"memory": MEMORY, "storage": STORAGE}
    await run(
        {component: scripts[:1] for component, scripts in new.items()},
        "INSERT INTO memory_blocks VALUES (1, 'a', 'b', 0, 1, 9, '[\"web\"]', 0, 1, 0.0)",
        "INSERT INTO memory_threads VALUES (1, 'a', 't', 2)",
        "INSERT INTO memory_messages VALUES (1, 0, x'', 0, 0, '[\"web\"]', 0.0)",
        "INSERT INTO memory_messages VALUES (1, 1, x'', 0, 0, '', 0.0)",
        "INSERT INTO memory_kv VALUES ('a', 'n', 'k', x'', 1, 0, '[\"web\"]', 0.0, 0.0, NULL)",
        "INSERT INTO files VALUES (1, 'a', '/f', 2, 2, 1)",
        *(
            "INSERT INTO file_versions VALUES "  # noqa: S608 - constants
            f"({n}, 'a', 1, {n}, 'write', '/f', 0, 0, x'', NULL, '{labels}', 'a', 0.0)"
            for n, labels in ((1, '["web"]'), (2, "[]"))
        ),
        "INSERT INTO mount_labels VALUES ('m', 'f', '[\"web\"]')",
    )

    tables = ("memory_blocks", "memory_threads", "memory_kv", "files", "mount_labels")
    found = await run(new, *(f"SELECT name_labels FROM {table}" for table in tables))  # noqa: S608

    assert found == [[('["web"]',)]] * len(tables)


async def test_data_without_labels_labels_no_one(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    for store in STORES.values():
        if store.kind != "mount":  # others may have written there
            for request in (*store.fill, *store.value, *store.listing, *store.error):
                await learn(alice, request)

    assert labels_of(kernel, alice) == set()
