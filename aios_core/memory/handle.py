"""The memory of one agent: `agent.memory`.

Every method is one syscall. Methods that begin with `a` are awaited, on any event loop; the
others block, and raise `WouldBlock` on the kernel's own loop. Every method can also raise
`InvalidRequest`, `AccessDenied`, `ApprovalRefused`, `StateError`, `DeadlineExceeded`,
`SyscallCancelled` and `KernelClosed`; methods that store something, `QuotaExceeded`.

`owner` is the identity of another agent, for access to memory that it shared. Sizes are in
bytes.
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
    """The memory of one agent: blocks, threads, key-value namespaces and semantic search."""

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
        """Create an empty block. Raises `Conflict` if there is one of that name."""
        self._port.call(MemoryAlloc(block, is_text, is_pinned, owner=owner))

    async def aalloc(
        self,
        block: str,
        *,
        is_text: bool = True,
        is_pinned: bool = False,
        owner: str | None = None,
    ) -> None:
        """Create an empty block. Raises `Conflict` if there is one of that name."""
        await self._port.acall(MemoryAlloc(block, is_text, is_pinned, owner=owner))

    def read(
        self, block: str, start: int = 0, stop: int | None = None, *, owner: str | None = None
    ) -> Value:
        """Read a block, or the part from `start` to before `stop`. Raises `NoSuchObject`.

        Positions count characters in a text block, and bytes in a binary one.
        """
        return self._port.call(MemoryRead(block, start, stop, owner=owner))

    async def aread(
        self, block: str, start: int = 0, stop: int | None = None, *, owner: str | None = None
    ) -> Value:
        """Read a block, or the part from `start` to before `stop`. Raises `NoSuchObject`.

        Positions count characters in a text block, and bytes in a binary one.
        """
        return await self._port.acall(MemoryRead(block, start, stop, owner=owner))

    def write(
        self, block: str, value: Value, *, at: int | None = None, owner: str | None = None
    ) -> int:
        """Write a block, replacing the one of that name. Returns the size of the block.

        With `at`, overwrite a binary block from that byte on; `at` is at most its size.
        """
        return self._port.call(MemoryWrite(block, value, at, owner=owner))

    async def awrite(
        self, block: str, value: Value, *, at: int | None = None, owner: str | None = None
    ) -> int:
        """Write a block, replacing the one of that name. Returns the size of the block.

        With `at`, overwrite a binary block from that byte on; `at` is at most its size.
        """
        return await self._port.acall(MemoryWrite(block, value, at, owner=owner))

    def append(self, block: str, value: Value, *, owner: str | None = None) -> int:
        """Append to a block; it is created if it does not exist. Returns the size of the block."""
        return self._port.call(MemoryAppend(block, value, owner=owner))

    async def aappend(self, block: str, value: Value, *, owner: str | None = None) -> int:
        """Append to a block; it is created if it does not exist. Returns the size of the block."""
        return await self._port.acall(MemoryAppend(block, value, owner=owner))

    def list(self, prefix: str = "", *, owner: str | None = None) -> tuple[BlockInfo, ...]:
        """List the blocks with names that start with `prefix`, sorted by name."""
        return self._port.call(MemoryList(prefix, owner=owner))

    async def alist(self, prefix: str = "", *, owner: str | None = None) -> tuple[BlockInfo, ...]:
        """List the blocks with names that start with `prefix`, sorted by name."""
        return await self._port.acall(MemoryList(prefix, owner=owner))

    def clear(self, block: str, *, owner: str | None = None) -> None:
        """Delete a block. Raises `NoSuchObject`."""
        self._port.call(MemoryClear(block, owner=owner))

    async def aclear(self, block: str, *, owner: str | None = None) -> None:
        """Delete a block. Raises `NoSuchObject`."""
        await self._port.acall(MemoryClear(block, owner=owner))

    def clear_all(self, prefix: str = "", *, owner: str | None = None) -> int:
        """Delete the blocks with names that start with `prefix`. Returns how many."""
        return self._port.call(MemoryClearAll(prefix, owner=owner))

    async def aclear_all(self, prefix: str = "", *, owner: str | None = None) -> int:
        """Delete the blocks with names that start with `prefix`. Returns how many."""
        return await self._port.acall(MemoryClearAll(prefix, owner=owner))

    def pin(self, block: str, *, owner: str | None = None) -> None:
        """Keep all pages of a block in RAM until `unpin`. Raises `NoSuchObject`."""
        self._port.call(MemoryPin(block, True, owner=owner))

    async def apin(self, block: str, *, owner: str | None = None) -> None:
        """Keep all pages of a block in RAM until `unpin`. Raises `NoSuchObject`."""
        await self._port.acall(MemoryPin(block, True, owner=owner))

    def unpin(self, block: str, *, owner: str | None = None) -> None:
        """Allow the pages of a block to be evicted again. Raises `NoSuchObject`."""
        self._port.call(MemoryPin(block, False, owner=owner))

    async def aunpin(self, block: str, *, owner: str | None = None) -> None:
        """Allow the pages of a block to be evicted again. Raises `NoSuchObject`."""
        await self._port.acall(MemoryPin(block, False, owner=owner))

    def search(
        self, query: str, *, limit: int = 5, prefix: str = "", owner: str | None = None
    ) -> tuple[MemoryHit, ...]:
        """Find the chunks of text blocks that are nearest in meaning to a query, best first.

        Args:
            query: the text to compare with.
            limit: the maximum number of hits, at most 1,000.
            prefix: search only the blocks with names that start with it.
            owner: the agent that shared its memory; None: this agent.
        """
        return self._port.call(MemorySearch(prefix, query, limit, owner=owner))

    async def asearch(
        self, query: str, *, limit: int = 5, prefix: str = "", owner: str | None = None
    ) -> tuple[MemoryHit, ...]:
        """Find the chunks of text blocks that are nearest in meaning to a query, best first.

        Args:
            query: the text to compare with.
            limit: the maximum number of hits, at most 1,000.
            prefix: search only the blocks with names that start with it.
            owner: the agent that shared its memory; None: this agent.
        """
        return await self._port.acall(MemorySearch(prefix, query, limit, owner=owner))

    def measure(self) -> MemoryUsage:
        """Return how much of its quotas this agent's memory uses."""
        return self._port.call(MemoryMeasure())

    async def ameasure(self) -> MemoryUsage:
        """Return how much of its quotas this agent's memory uses."""
        return await self._port.acall(MemoryMeasure())

    # --- sharing -----------------------------------------------------------------------------

    def share(
        self, name: str, with_: str, *, right: Rights = "read", for_s: float | None = None
    ) -> None:
        """Grant other agents access to a part of this memory.

        Warns (`ShareWarning`) if the object or the receiver does not exist.

        Args:
            name: a block, "thread:NAME", "kv:NAME", or "" for all of this agent's memory.
            with_: an identity, "group:NAME", or "*" for every agent.
            right: "read" or "write", or both as a list; "write" does not include "read".
            for_s: seconds until the grant expires; None: until `unshare`.
        """
        warn_of(self._port.call(self._grant(name, with_, right, for_s)))

    async def ashare(
        self, name: str, with_: str, *, right: Rights = "read", for_s: float | None = None
    ) -> None:
        """Grant other agents access to a part of this memory (async form of `share`)."""
        warn_of(await self._port.acall(self._grant(name, with_, right, for_s)))

    def unshare(self, name: str, with_: str) -> None:
        """Revoke a grant that `share` gave. Raises `NoSuchObject` if there is none."""
        self._port.call(AccessRevoke(self._resource(name), with_))

    async def aunshare(self, name: str, with_: str) -> None:
        """Revoke a grant that `share` gave. Raises `NoSuchObject` if there is none."""
        await self._port.acall(AccessRevoke(self._resource(name), with_))

    # --- conversations and namespaces --------------------------------------------------------

    def thread(self, name: str, *, owner: str | None = None) -> Thread:
        """Return the handle of a conversation; the first message creates it."""
        return Thread(self._port, name, owner)

    def threads(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """List the names of the conversations that start with `prefix`, sorted."""
        return self._port.call(ThreadList(prefix, owner=owner))

    async def athreads(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """List the names of the conversations that start with `prefix`, sorted."""
        return await self._port.acall(ThreadList(prefix, owner=owner))

    def kv(self, namespace: str, *, owner: str | None = None) -> KeyValues:
        """Return the handle of a key-value namespace; the first key creates it."""
        return KeyValues(self._port, namespace, owner)

    def namespaces(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """List the names of the non-empty key-value namespaces that start with `prefix`, sorted."""
        return self._port.call(KeyValueNamespaces(prefix, owner=owner))

    async def anamespaces(self, prefix: str = "", *, owner: str | None = None) -> tuple[str, ...]:
        """List the names of the non-empty key-value namespaces that start with `prefix`, sorted."""
        return await self._port.acall(KeyValueNamespaces(prefix, owner=owner))

    # --- inside ------------------------------------------------------------------------------

    def _resource(self, name: str) -> Resource:
        return Resource(KIND, self._port.identity, name)

    def _grant(self, name: str, to: str, right: Rights, for_s: float | None) -> AccessGrant:
        # The request turns one right or several into a set, and rejects unknown rights.
        return AccessGrant(self._resource(name), to, right, for_s)  # type: ignore[arg-type]
