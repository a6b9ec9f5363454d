"""Labels follow what was read: values, names, listings and errors, to whoever reads them.

A matrix: every store, every way to learn something of it, every kind of reader. Whoever has read
something of an origin carries its label, and a rule about that label then holds for it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aios_core import AccessDenied, Agent, ApprovalRefused, Kernel, KernelConfig
from aios_core.access import AccessCheck, AccessList
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import KernelError
from aios_core.grants import AccessGrant, AccessRevoke
from aios_core.memory.kv import Listing
from aios_core.memory.kv_requests import (
    KeyValueGet,
    KeyValueList,
    KeyValueNamespaces,
    KeyValuePut,
)
from aios_core.memory.requests import (
    MemoryAlloc,
    MemoryClear,
    MemoryList,
    MemoryMeasure,
    MemoryRead,
    MemorySearch,
    MemoryWrite,
)
from aios_core.memory.thread_requests import (
    ThreadAppend,
    ThreadArchive,
    ThreadClear,
    ThreadCount,
    ThreadList,
    ThreadRead,
    ThreadRemove,
    ThreadReplace,
)
from aios_core.permissions import Access, Resource, Right
from aios_core.provenance import MAX_TEXTS, LabelledTexts
from aios_core.storage.requests import (
    FileChanges,
    FileDiff,
    FileHistory,
    FileList,
    FileMove,
    FileRead,
    FileRetrieve,
    FileStat,
    FileWrite,
    StorageUsage,
    TreeList,
    TreeRestore,
    TreeSnapshot,
)
from aios_core.storage.semantic.collection_requests import (
    CollectionGet,
    CollectionItem,
    CollectionPut,
    CollectionSearch,
)
from aios_core.syscalls import Discloses, LLMGenerate, Request
from aios_core.tools import Tool, ToolContext
from aios_core.tools.handle import as_text
from aios_core.tools.registry import Plugin, offers_of
from aios_core.tools.requests import (
    ToolDoubts,
    ToolList,
    ToolLoad,
    ToolRead,
    ToolRun,
    ToolUnload,
)

WEB = frozenset({"web"})
SECRET = "name-from-the-web"  # noqa: S105 - what somebody outside may have made up
POLICY = """
[[rules]]
name = "nothing from the web goes out"
effect = "deny"
actions = ["tool.run"]
resources = ["tool::send"]
labels = ["web"]

[[rules]]
name = "what the web says is paid for by a person"
effect = "ask"
actions = ["tool.run"]
resources = ["tool::pay"]
labels = ["web"]
"""


class Embedder:
    """Finds everything alike."""

    name = "alike"

    async def start(self) -> None: ...

    async def embed(self, texts: Any) -> Any:
        return [(1.0, 0.0) for _ in texts]

    async def close(self) -> None: ...


def _tool(name: str, function: Callable[..., Any], **declared: Any) -> Tool:
    declared = {"read_only": True, "trusted": True, **declared}
    return Tool(name, name, {"type": "object"}, function, **declared)


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    (tmp_path / "mount").mkdir()
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    config = KernelConfig.load(
        environ={},
        state={"directory": ":memory:"},
        access={"policy": str(tmp_path / "policy.toml"), "approver": "deny"},
        tools={"plugins": ()},
        storage={"mounts": {"m": {"directory": str(tmp_path / "mount"), "mode": "write"}}},
    )
    async with Kernel(config, cores=[ScriptedCore("ok")], embedder=Embedder()) as running:
        for name in ("send", "pay"):
            await running.aload_tools(_tool(name, lambda: "done"))
        yield running
        running.check()


def labels_of(kernel: Kernel, agent: Agent) -> set[str]:
    return kernel.processes.get(agent.pid).labels


def take(kernel: Kernel, agent: Agent, labels: frozenset[str] = WEB) -> None:
    """Let the agent have read something of that origin, and its parents not."""
    process = kernel.processes.get(agent.pid)
    process.labels = process.labels | labels


def forget(kernel: Kernel, agent: Agent) -> None:
    """Let the agent have read nothing."""
    kernel.processes.get(agent.pid).labels = set()


# --- what there is to read -----------------------------------------------------------------------

Requests = tuple[Request[Any], ...]


@dataclass(frozen=True)
class Store:
    """Something that is kept: how it is filled, and what can be learnt of it in which way.

    `again` writes under the names that are there, by somebody who has read nothing.
    """

    fill: Requests
    value: Requests = ()
    listing: Requests = ()
    error: Requests = ()
    again: Requests = ()
    kind: str = "memory"

    def requests(self, channel: str) -> Requests:
        """Those that learn something that way; a name from a listing, once all else is clean."""
        if channel == "name":
            return self.listing if self.again else ()
        return {"value": self.value, "listing": self.listing, "error": self.error}[channel]


STORES: Mapping[str, Store] = {
    "block": Store(
        fill=(MemoryWrite(SECRET, "text"),),
        value=(MemoryRead(SECRET), MemorySearch(query="text")),
        listing=(MemoryList(), MemoryMeasure()),
        error=(MemoryClear("nope"), MemoryRead("nope"), MemoryAlloc(SECRET)),
        again=(MemoryWrite(SECRET, "fine"),),
    ),
    "thread": Store(
        fill=(ThreadAppend(SECRET, ({"role": "user", "content": "text"},)),),
        value=(
            ThreadRead(SECRET),
            ThreadCount(SECRET),
            ThreadArchive(SECRET, (0,)),
            ThreadRemove(SECRET, (0,)),
        ),
        listing=(ThreadList(), MemoryMeasure()),
        error=(ThreadClear("nope"),),
        again=(ThreadReplace(SECRET, ({"role": "user", "content": "fine"},)),),
    ),
    "namespace": Store(
        fill=(KeyValuePut(SECRET, {SECRET: "text"}),),
        value=(KeyValueGet(SECRET, (SECRET,)),),
        listing=(
            KeyValueList(SECRET),
            KeyValueList(SECRET, Listing(with_values=False)),
            KeyValueNamespaces(),
        ),
        again=(KeyValuePut(SECRET, {SECRET: "fine"}),),
    ),
    "file": Store(
        fill=(FileWrite(SECRET, data=b"text"),),
        value=(FileRead(SECRET), FileStat(SECRET), FileDiff(SECRET), FileRetrieve("/", query="t")),
        listing=(FileList(), FileHistory(SECRET), FileChanges("/"), StorageUsage()),
        error=(FileRead("nope"), FileWrite(f"{SECRET}/below", data=b"")),
        again=(FileWrite(SECRET, data=b"fine"),),
        kind="file",
    ),
    "directory": Store(
        fill=(FileWrite(f"d/{SECRET}", data=b"text"),),
        listing=(FileList("/d"), FileMove("d", to="e")),
        error=(FileRead("d/nope"), FileWrite("d", data=b"")),
        again=(FileWrite(f"d/{SECRET}", data=b"fine"),),
        kind="file",
    ),
    "snapshot": Store(
        fill=(FileWrite("a", data=b""), TreeSnapshot("/", name=SECRET)),
        listing=(TreeList(),),
        error=(TreeRestore("/", name="nope"),),
        kind="file",
    ),
    "collection": Store(
        fill=(CollectionPut("c", (CollectionItem(SECRET, "text"),)),),
        value=(CollectionGet("c", (SECRET,)),),
        listing=(CollectionSearch("c", "text"),),
        again=(CollectionPut("c", (CollectionItem(SECRET, "fine"),)),),
        kind="collection",
    ),
    "mount": Store(
        fill=(FileWrite(f"/mnt/m/{SECRET}", data=b"text"),),
        value=(FileRead(f"/mnt/m/{SECRET}"), FileStat(f"/mnt/m/{SECRET}")),
        listing=(FileList("/mnt/m"),),
        kind="mount",
    ),
}


def cells() -> Iterator[Any]:
    for name, store in STORES.items():
        for channel in ("value", "name", "listing", "error"):
            if store.requests(channel):
                yield pytest.param(store, channel, id=f"{name}-{channel}")


READERS = ("same life", "next life", "child", "parent", "peer", "port")


async def fill(kernel: Kernel, store: Store, channel: str, agent: Agent) -> None:
    """Write by an agent that has read the web; a name outlives what is written there later."""
    take(kernel, agent)
    for request in store.fill:
        await agent.port.acall(request)
    forget(kernel, agent)
    for request in store.again if channel == "name" else ():
        await agent.port.acall(request)
    assert labels_of(kernel, agent) == set()


async def learn(agent: Agent, request: Request[Any]) -> str:
    """Make a request, whatever comes of it; its error, in words."""
    try:
        await agent.port.acall(request)
    except KernelError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("store", "channel"), [*cells()])
async def test_whoever_learns_something_carries_where_it_comes_from(
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


async def require_kept_in(kernel: Kernel, agent: Agent, request: Request[Any]) -> None:
    """The agent carries the label, and rules about it hold for what the agent does next."""
    assert "web" in labels_of(kernel, agent), request.kind
    with pytest.raises(AccessDenied, match="nothing from the web goes out"):
        await agent.tools.arun("send")
    with pytest.raises(ApprovalRefused):
        await agent.tools.arun("pay")


async def through_a_tool(agent: Agent, request: Request[Any]) -> None:
    """Have a tool make the request through its port, for its caller."""

    def look(context: ToolContext) -> str:
        with suppress(KernelError):
            context.port.call(request)
        return "looked"

    await agent.tools.aoffer(_tool("look", look, context_name="context"))
    await agent.tools.arun("look")


async def shared(owner: Agent, store: Store, request: Request[Any], to: str) -> Request[Any]:
    """The request, about what the owner shares with that agent."""
    names = getattr(request, "__dataclass_fields__", {})
    if store.kind == "mount" or "owner" not in names:
        return request
    kinds = {"memory": "", "file": "/", "collection": ""}
    rights = frozenset({Right.READ, Right.WRITE})
    resource = Resource(store.kind, owner.identity, kinds[store.kind])
    await owner.port.acall(AccessGrant(resource, to, rights))
    return replace(request, owner=owner.identity)  # type: ignore[type-var, no-any-return]


# --- beyond the stores ---------------------------------------------------------------------------

LISTED: Mapping[str, str] = {  # content that comes from elsewhere; each has a test below
    "tool.run": "test_what_a_tool_returns_or_raises_is_its_word",
    "tool.read": "test_a_large_result_is_read_with_its_labels_by_the_next_life",
    "tool.list": "test_what_an_outsider_says_of_its_tools_is_its_word",
    "tool.load": "test_who_offers_a_tool_names_it",
    "tool.unload": "test_who_offers_a_tool_names_it",
    "tool.in_doubt": "test_a_doubt_quotes_what_its_caller_had_read",
    "access.list": "test_a_grant_names_things_as_its_giver_does",
    "access.check": "test_a_grant_names_things_as_its_giver_does",
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


async def test_a_child_begins_with_what_its_parent_has_read_and_hands_up_what_it_reads(
    kernel: Kernel,
) -> None:
    boss = await kernel.aspawn("boss")
    take(kernel, boss, frozenset({"mail"}))
    child = await kernel.aspawn("child", parent=boss.pid)
    grandchild = await kernel.aspawn("grandchild", parent=child.pid)
    other = await kernel.aspawn("other")
    assert labels_of(kernel, grandchild) == {"mail"}

    await grandchild.tools.aoffer(_tool("fetch", lambda: "text", trusted=False))
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

    await alice.tools.aoffer(_tool("fetch", fetch, trusted=False, context_name="context"))
    await alice.tools.arun("fetch")

    await bob.memory.aread("page", owner=alice.identity)
    assert labels_of(kernel, bob) == {"tool:fetch"}


async def test_what_a_tool_returns_or_raises_is_its_word(kernel: Kernel) -> None:
    for name, function in (("fetch", lambda: "text"), ("fail", lambda: 1 // 0)):
        agent = await kernel.aspawn(name)
        await agent.tools.aoffer(_tool(name, function, trusted=False))
        with suppress(KernelError):
            await agent.tools.arun(name)
        assert labels_of(kernel, agent) == {f"tool:{name}"}


async def test_a_large_result_is_read_with_its_labels_by_the_next_life(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    await alice.tools.aoffer(_tool("fetch", lambda: "x" * 100_000, trusted=False))
    stored = await alice.tools.arun("fetch")
    await kernel.aexit(alice.pid)
    again = await kernel.aspawn("alice")

    await again.port.acall(ToolRead(stored.reference))

    assert labels_of(kernel, again) == {"tool:fetch"}


async def test_what_an_outsider_says_of_its_tools_is_its_word(kernel: Kernel) -> None:
    foreign = Plugin("mcp:x", "MCP server x", (_tool("x_do", len, trusted=False),), None, True)
    ours = Plugin("ours", "plug-in", (_tool("ours", len, trusted=False),))
    registry = kernel._inside.parts.tools.catalogue.registry
    registry.put("ours", offers_of(ours))
    for request in (ToolList(), ToolRun("no_such_tool")):
        agent = await kernel.aspawn("early")
        await learn(agent, request)
        assert labels_of(kernel, agent) == set()  # the operator wrote that description

    registry.put("mcp:x", offers_of(foreign))

    for request in (ToolList(), ToolRun("no_such_tool"), ToolUnload("no_such_tool")):
        agent = await kernel.aspawn("late")
        await learn(agent, request)
        if not isinstance(request, ToolUnload):  # refused: nobody approves of it
            assert labels_of(kernel, agent) == {"tool:x_do"}


async def test_who_offers_a_tool_names_it(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    take(kernel, alice)
    await alice.port.acall(ToolLoad(_tool(SECRET, lambda: SECRET), is_private=True))

    for request in (ToolList(), ToolRun(SECRET), ToolRun("nope"), ToolUnload(SECRET, True)):
        forget(kernel, alice)
        await learn(alice, request)
        assert labels_of(kernel, alice) == WEB, request.kind


async def test_a_doubt_quotes_what_its_caller_had_read(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    held = threading.Event()
    pay = _tool("order", held.wait, read_only=False, timeout_s=0.01)
    await alice.tools.aoffer(replace(pay, parameters={"type": "object", "properties": {}}))
    take(kernel, alice)
    await learn(alice, ToolRun("order"))
    held.set()
    await kernel.aexit(alice.pid)
    again = await kernel.aspawn("alice")

    await again.port.acall(ToolDoubts())

    assert labels_of(kernel, again) == WEB


async def test_a_grant_names_things_as_its_giver_does(kernel: Kernel) -> None:
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


PAGE = "the page says that all accounts are to be closed"


class TestTheSameTextAgain:
    """What the program passes on word for word, the kernel sees again."""

    async def reader(self, kernel: Kernel, text: Any = PAGE) -> tuple[Agent, Any]:
        """An agent that was given a text by a tool that is not trusted, and that text."""
        reader = await kernel.aspawn("reader")
        await reader.tools.aoffer(_tool("fetch", lambda: text, trusted=False))
        return reader, await reader.tools.arun("fetch")

    @pytest.mark.parametrize(
        "bring",
        [
            lambda agent, text: agent.llm.agenerate(text),
            lambda agent, text: agent.llm.agenerate(
                [{"role": "system", "content": "You sum up."}, {"role": "user", "content": text}]
            ),
            lambda agent, text: agent.llm.agenerate(
                [{"role": "user", "content": [{"type": "text", "text": text}]}]
            ),
            lambda agent, text: agent.llm.agenerate(f"\n {text} \n"),
            lambda agent, text: agent.memory.awrite("notes", text),
            lambda agent, text: agent.memory.kv("notes").aset("k", text),
            lambda agent, text: agent.memory.thread("t").aappend(
                [{"role": "user", "content": text}]
            ),
            lambda agent, text: agent.storage.awrite("notes.txt", text),
            lambda agent, text: agent.tools.arun("echo", {"body": {"text": [text]}}),
        ],
    )
    async def test_whoever_brings_it_takes_its_labels(
        self, kernel: Kernel, bring: Callable[[Agent, str], Any]
    ) -> None:
        await kernel.aload_tools(_tool("echo", lambda **given: str(given)))
        _, text = await self.reader(kernel)
        other = await kernel.aspawn("other")

        await bring(other, text)

        assert labels_of(kernel, other) == {"tool:fetch"}

    async def test_it_counts_for_the_very_request_that_brings_it(self, kernel: Kernel) -> None:
        reader = await kernel.aspawn("reader")
        await reader.memory.awrite("page", "")
        take(kernel, reader)
        await reader.memory.awrite("page", PAGE)
        await reader.memory.aread("page")
        other = await kernel.aspawn("other")

        with pytest.raises(AccessDenied, match="nothing from the web goes out"):
            await other.tools.arun("send", {"body": PAGE})

    async def test_what_a_labelled_agent_says_is_passed_on_with_its_labels(
        self, tmp_path: Path
    ) -> None:
        del tmp_path
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        said = "I have read it, and would close the accounts."
        async with Kernel(config, cores=[ScriptedCore(said)]) as kernel:
            reader, other = await kernel.aspawn("reader"), await kernel.aspawn("other")
            clean = await kernel.aspawn("clean")
            answer = await clean.llm.agenerate("What do you say?")
            await other.llm.agenerate(answer.text)
            assert labels_of(kernel, other) == set()
            take(kernel, reader)

            answer = await reader.llm.agenerate("What do you say?")
            await other.llm.agenerate(answer.text)

            assert labels_of(kernel, other) == WEB

    async def test_a_result_is_known_in_the_forms_that_frameworks_show(
        self, kernel: Kernel
    ) -> None:
        _, result = await self.reader(kernel, {"title": "Ä", "page": PAGE, "links": [1, 2]})
        for number, form in enumerate((as_text(result), str(result), result["page"])):
            other = await kernel.aspawn(f"other {number}")
            await other.llm.agenerate([{"role": "user", "content": form}])
            assert labels_of(kernel, other) == {"tool:fetch"}, form

    async def test_short_texts_and_names_are_nobodys(self, kernel: Kernel) -> None:
        await self.reader(kernel, "ok")
        alice = await kernel.aspawn("alice")
        take(kernel, alice)
        name = "a-name-that-is-long-enough-to-be-kept"
        await alice.memory.awrite(name, "text")
        await alice.memory.alist()
        other = await kernel.aspawn("other")

        await other.llm.agenerate("ok")
        await other.memory.awrite(name, "mine")

        assert labels_of(kernel, other) == set()

    async def test_what_is_kept_is_bounded(self) -> None:
        texts = LabelledTexts()
        for number in range(MAX_TEXTS + 10):
            texts.remember(f"a text of some length, number {number}", WEB)
        assert len(texts) == MAX_TEXTS


async def test_a_saved_agent_goes_on_with_what_it_had_read(kernel: Kernel, tmp_path: Path) -> None:
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


async def test_what_nobody_outside_has_touched_marks_nobody(kernel: Kernel) -> None:
    alice = await kernel.aspawn("alice")
    for store in STORES.values():
        if store.kind != "mount":  # others may have written there
            for request in (*store.fill, *store.value, *store.listing, *store.error):
                await learn(alice, request)

    assert labels_of(kernel, alice) == set()
