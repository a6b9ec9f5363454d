"""The memory of one agent, in the hands of its developer: `agent.memory`.

Every call is one syscall; those that begin with `a` are awaited, on any event loop. All
raise, besides what they say: `InvalidRequest`, `AccessDenied`, `ApprovalRefused`,
`QuotaExceeded` (those that keep something), `StateError`, `DeadlineExceeded`,
`SyscallCancelled`, `KernelClosed`; the blocking ones `WouldBlock` on the kernel's own loop.

`owner` is the identity of another agent whose memory is meant, if it shared that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aios_core.grants import AccessGrant, AccessRevoke, warn_of
from aios_core.manager import Port
from aios_core.memory.handle_kv import KeyValues
from aios_core.memory.handle_thread import Thread
from aios_core.memory.kv_requests import KeyValueNamespaces
from aios_core.memory.records import BlockInfo, MemoryHit, MemoryUsage, Value
from aios_core.memory.requests import (
    KIND,
    MemoryAlloc,
    MemoryAppend,
    MemoryClear,
    MemoryClearAll,
    MemoryList,
    MemoryMeasure,
    MemoryPin,
    MemoryRead,
    MemorySearch,
    MemoryWrite,
)
from aios_core.memory.thread_requests import ThreadList
from aios_core.permissions import Resource, Right

Rights = Right | str | Iterable[Right | str]


@dataclass(frozen=True, slots=True)
class Memory:
    """See the module."""

    _port: Port

    # --- blocks ------------------------------------------------------------------------------

    def alloc(
        self,
        block: str,
        *,
        is_text: bool = True,
        is_pinned: bool = False,
        owner: str | None = None,
    ) -> None:
        """Make an empty block. Raises `Conflict` if there is one of that name."""
        self._port.call(MemoryAlloc(block, is_text, is_pinned, owner=owner))

    async def aalloc(
        self,
        block: str,
        *,
        is_text: bool = True,
        is_pinned: bool = False,
        owner: str | None = None,
    ) -> None:
        """Make an empty block. Raises `Conflict` if there is one of that name."""
        await self._port.acall(MemoryAlloc(block, is_text, is_pinned, owner=owner))

    def read(
        self, block: str, start: int = 0, stop: int | None = None, *, owner: str | None = None
    ) -> Value:
        """A block, or a part of it: characters of a text, else bytes. Raises `NoSuchObject`."""
        return self._port.call(MemoryRead(block, start, stop, owner=owner))

    async def aread(
        self, block: str, start: int = 0, stop: int | None = None, *, owner: str | None = None
    ) -> Value:
        """A block, or a part of it: characters of a text, else bytes. Raises `NoSuchObject`."""
        return await self._port.acall(MemoryRead(block, start, stop, owner=owner))

    def write(
        self, block: str, value: Value, *, at: int | None = None, owner: str | None = None
    ) -> int:
        """Make a block of a value, or write over a part of one of bytes; its size in bytes."""
        return self._port.call(MemoryWrite(block, value, at, owner=owner))

    async def awrite(
        self, block: str, value: Value, *, at: int | None = None, owner: str | None = None
    ) -> int:
        """Make a block of a value, or write over a part of one of bytes; its size in bytes."""
        return await self._port.acall(MemoryWrite(block, value, at, owner=owner))

    def append(self, block: str, value: Value, *, owner: str | None = None) -> int:
        """Put more at the end of a block, made if it is not there; its size in bytes."""
        return self._port.call(MemoryAppend(block, value, owner=owner))

    async def aappend(self, block: str, value: Value, *, owner: str | None = None) -> int:
        """Put more at the end of a block, made if it is not there; its size in bytes."""
        return await self._port.acall(MemoryAppend(block, value, owner=owner))

    def list(self, prefix: str = "", *, owner: str | None = None) -> tuple[BlockInfo, ...]:
        """The blocks whose names begin so, in the order of their names."""
        return self._port.call(MemoryList(prefix, owner=owner))

    async def alist(self, prefix: str = "", *, owner: str | None = None) -> tuple[BlockInfo, ...]:
        """The blocks whose names begin so, in the order of their names."""
        return await self._port.acall(MemoryList(prefix, owner=owner))

    def clear(self, block: str, *, owner: str | None = None) -> None:
        """Remove a block. Raises `NoSuchObject`."""
        self._port.call(MemoryClear(block, owner=owner))

    async def aclear(self, block: str, *, owner: str | None = None) -> None:
        """Remove a block. Raises `NoSuchObject`."""
        await self._port.acall(MemoryClear(block, owner=owner))

    def clear_all(self, prefix: str = "", *, owner: str | None = None) -> int:
        """Remove the blocks whose names begin so; how many there were."""
        return self._port.call(MemoryClearAll(prefix, owner=owner))

    async def aclear_all(self, prefix: str = "", *, owner: str | None = None) -> int:
        """Remove the blocks whose names begin so; how many there were."""
        return await self._port.acall(MemoryClearAll(prefix, owner=owner))

    def pin(self, block: str, *, owner: str | None = None) -> None:
        """Keep the pages of a block in RAM, until `unpin`."""
        self._port.call(MemoryPin(block, True, owner=owner))

    async def apin(self, block: str, *, owner: str | None = None) -> None:
        """Keep the pages of a block in RAM, until `unpin`."""
        await self._port.acall(MemoryPin(block, True, owner=owner))

    def unpin(self, block: str, *, owner: str | None = None) -> None:
        """Let the pages of a block be evicted again."""
        self._port.call(MemoryPin(block, False, owner=owner))

    async def aunpin(self, block: str, *, owner: str | None = None) -> None:
        """Let the pages of a block be evicted again."""
        await self._port.acall(MemoryPin(block, False, owner=owner))

    def search(
        self, query: str, *, limit: int = 5, prefix: str = "", owner: str | None = None
    ) -> tuple[MemoryHit, ...]:
        """The passages of texts that are nearest in meaning, the nearest first."""
        return self._port.call(MemorySearch(prefix, query, limit, owner=owner))

    async def asearch(
        self, query: str, *, limit: int = 5, prefix: str = "", owner: str | None = None
    ) -> tuple[MemoryHit, ...]:
        """The passages of texts that are nearest in meaning, the nearest first."""
        return await self._port.acall(MemorySearch(prefix, query, limit, owner=owner))

    def measure(self) -> MemoryUsage:
        """How much of its quotas this agent's memory takes."""
        return self._port.call(MemoryMeasure())

    async def ameasure(self) -> MemoryUsage:
        """How much of its quotas this agent's memory takes."""
        return await self._port.acall(MemoryMeasure())

    # --- sharing -----------------------------------------------------------------------------

    def share(
        self, name: str, with_: str, *, right: Rights = "read", for_s: float | None = None
    ) -> None:
        """Let somebody read a block ("read"), change it ("write") or both, for `for_s` seconds.

        To change it alone does not let read: say `right=["read", "write"]`. `name` may also be
        "thread:NAME", "kv:NAME", or "" for all there is; `with_` is an identity, "group:NAME"
        or "*". Warns (`ShareWarning`) if the thing or the receiver does not
        exist.
        """
        warn_of(self._port.call(self._grant(name, with_, right, for_s)))

    async def ashare(
        self, name: str, with_: str, *, right: Rights = "read", for_s: float | None = None
    ) -> None:
        """Let somebody read a block, change it or both; see `share`."""
        warn_of(await self._port.acall(self._grant(name, with_, right, for_s)))

    def unshare(self, name: str, with_: str) -> None:
        """Take back what was shared. Raises `NoSuchObject` if it was not."""
        self._port.call(AccessRevoke(self._resource(name), with_))

    async def aunshare(self, name: str, with_: str) -> None:
        """Take back what was shared. Raises `NoSuchObject` if it was not."""
        await self._port.acall(AccessRevoke(self._resource(name), with_))

    # --- conversations and namespaces --------------------------------------------------------

    def thread(self, name: str, *, owner: str | None = None) -> Thread:
        """A conversation; it is made by the first message."""
        return Thread(self._port, name, owner)

    def threads(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """The names of the conversations, in order."""
        return self._port.call(ThreadList(prefix, owner=owner))

    async def athreads(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """The names of the conversations, in order."""
        return await self._port.acall(ThreadList(prefix, owner=owner))

    def kv(self, namespace: str, *, owner: str | None = None) -> KeyValues:
        """A key-value namespace; it is made by the first key."""
        return KeyValues(self._port, namespace, owner)

    def namespaces(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """The names of the key-value namespaces that hold something, in order."""
        return self._port.call(KeyValueNamespaces(prefix, owner=owner))

    async def anamespaces(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """The names of the key-value namespaces that hold something, in order."""
        return await self._port.acall(KeyValueNamespaces(prefix, owner=owner))

    # --- inside ------------------------------------------------------------------------------

    def _resource(self, name: str) -> Resource:
        return Resource(KIND, self._port.identity, name)

    def _grant(self, name: str, to: str, right: Rights, for_s: float | None) -> AccessGrant:
        # The request makes a set of one or several, and refuses what is no right.
        return AccessGrant(self._resource(name), to, right, for_s)  # type: ignore[arg-type]
