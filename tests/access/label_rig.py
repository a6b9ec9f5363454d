"""A kernel with rules about data from the web, and a matrix of everything that agents store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aios_core import AccessDenied, Agent, ApprovalRefused, Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import KernelError
from aios_core.grants import AccessGrant
from aios_core.memory.kv import KeyRange
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
from aios_core.permissions import Resource, Right
from aios_core.storage.collections.requests import (
    CollectionGet,
    CollectionItem,
    CollectionPut,
    CollectionSearch,
)
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
    StorageMeasure,
    TreeList,
    TreeRestore,
    TreeSnapshot,
)
from aios_core.syscalls import Request
from aios_core.tools import Tool, ToolContext

WEB = frozenset({"web"})
SECRET = "name-from-the-web"  # noqa: S105 - a text that an outsider may have chosen
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
    """An embedder that gives all texts one vector."""

    name = "constant"

    async def start(self) -> None: ...

    async def embed(self, texts: Any) -> Any:
        return [(1.0, 0.0) for _ in texts]

    async def close(self) -> None: ...


def tool(name: str, function: Callable[..., Any], **declared: Any) -> Tool:
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
            await running.aload_tools(tool(name, lambda: "done"))
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

    `again` writes under existing names, by an agent that has read nothing.
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
            KeyValueList(SECRET, KeyRange(with_values=False)),
            KeyValueNamespaces(),
        ),
        again=(KeyValuePut(SECRET, {SECRET: "fine"}),),
    ),
    "file": Store(
        fill=(FileWrite(SECRET, data=b"text"),),
        value=(FileRead(SECRET), FileStat(SECRET), FileDiff(SECRET), FileRetrieve("/", query="t")),
        listing=(FileList(), FileHistory(SECRET), FileChanges("/"), StorageMeasure()),
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
    """Make a request. Returns its error as text, if it fails."""
    try:
        await agent.port.acall(request)
    except KernelError as exc:
        return str(exc)
    return ""


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

    await agent.tools.aoffer(tool("look", look, context_name="context"))
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
