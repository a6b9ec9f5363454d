"""The memory manager: paged blocks, conversations, key-value namespaces, semantic search.

Where data is:

    RAM     `ResidentSet`: the list of an agent's blocks, and its resident pages
    disk    SQLite: all data, always; `BlockTable`, `ThreadTable`, `KeyValueTable`

A write is answered once it is durable. Its result is applied in RAM then: the writer
delivers results in the order of the commits. So a resident block is read on the kernel's
loop, without a thread and without the disk, and equals the committed state. An evicted
page is read on a thread; if its block has changes in flight, after those changes.

Guarantees: an answered write survives kill -9; every read after it sees it, whether the
page was evicted or not; no agent's pages take more RAM than its limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from aios_core.config import MemoryConfig
from aios_core.errors import KernelError, NoSuchObject, QuotaExceeded
from aios_core.memory.block_service import BlockService
from aios_core.memory.blocks import BlockLimits
from aios_core.memory.naming import is_kept
from aios_core.memory.quotas import Quotas
from aios_core.memory.requests import KIND, MemoryOverwrite, MemoryWrite
from aios_core.memory.resident_set import ResidencyLimits
from aios_core.memory.resident_sets import ResidentSets
from aios_core.memory.search_service import SearchService
from aios_core.memory.tables import LazyTables
from aios_core.memory.thread_kv_service import KeyValueService, ThreadService
from aios_core.permissions import Resource
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder
from aios_core.state import StateOpener
from aios_core.syscalls import Request


class MemoryManager:
    """Serves the memory requests of all agents (a `Manager`).

    Args:
        state: opens the state directory at the first request.
        config: sizes, quotas and the settings of LRU-K.
        now: returns the kernel's time in seconds, for LRU-K.
        embedder: embeds texts for `MemorySearch`; None: a search raises `InvalidRequest`.
        wall: returns seconds since 1970, for stored times.
    """

    name = "memory"

    def __init__(
        self,
        state: StateOpener,
        config: MemoryConfig,
        *,
        now: Callable[[], float],
        embedder: BilledEmbedder | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        residency = ResidencyLimits(
            limit=config.resident_bytes,
            watermark=config.watermark,
            k=config.lru_k,
            correlated_s=config.correlated_s,
            retained_s=config.retained_s,
        )
        quotas = Quotas(
            config.quota_bytes, config.group_quota_bytes, config.group_quotas, config.agent_quotas
        )
        self._tables = LazyTables(
            state, quotas, BlockLimits(config.page_bytes, residency.high), wall
        )
        self._residents = ResidentSets(self._tables, residency, config.total_resident_bytes, now)
        self._serve = {
            kind: handler
            for service in (
                BlockService(self._tables, self._residents, residency, now),
                SearchService(self._tables, embedder),
                ThreadService(self._tables),
                KeyValueService(self._tables),
            )
            for kind, handler in service.handlers().items()
        }

    def __repr__(self) -> str:
        residents = self._residents
        return (
            f"<MemoryManager: {len(residents)} agents, {residents.resident_bytes} bytes resident>"
        )

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return tuple(self._serve)

    async def start(self) -> None:
        """Do nothing: the first request opens the state."""

    async def prepare(self, process: AgentProcess, request: Any) -> Request[Any]:
        """Turn a write that replaces content into a `MemoryOverwrite`, for the access check."""
        if isinstance(request, MemoryWrite) and request.owner in (None, process.identity):
            resident = await self._residents.of(process.identity)
            if resident.would_overwrite(request.block, request.at):
                return MemoryOverwrite(request)
        checked: Request[Any] = request
        return checked

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        if isinstance(request, MemoryOverwrite):
            request = request.write
        try:
            return await self._serve[type(request)](process, request)
        except (NoSuchObject, QuotaExceeded) as exc:
            if getattr(request, "owner", None) in (None, process.identity):
                raise
            raise _redact_for_non_owner(exc) from None

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether a block, thread or namespace, or one below that name, exists.

        None for a resource that is not memory.
        """
        if resource.kind != KIND or resource.owner is None:
            return None
        owner, name = resource.owner, resource.name.rstrip("/")
        if not name:
            return True
        tables = await self._tables.open()
        return await tables.state.database.aread(lambda c: is_kept(c, owner, name))

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity ever stored something in memory."""
        tables = await self._tables.open()
        query = "SELECT 1 FROM memory_usage WHERE owner = ?"
        rows = await tables.state.database.aread(lambda c: c.execute(query, (identity,)).fetchall())
        return bool(rows)

    def forget(self, process: AgentProcess) -> None:
        """Drop the cached pages of an exited agent; later reads load them from disk."""
        self._residents.forget(process.identity)

    async def close(self) -> None:
        await self._residents.close()

    def check(self) -> None:
        self._residents.check()


def _redact_for_non_owner(exc: NoSuchObject | QuotaExceeded) -> KernelError:
    """Remove from an error about another agent's memory the names of its other objects."""
    if isinstance(exc, NoSuchObject):
        return NoSuchObject(exc.kind, exc.name)
    return QuotaExceeded(
        exc.owner,
        exc.resource,
        limit=exc.limit,
        used=exc.used,
        requested=exc.requested,
        hint="its owner has to free some of it",
    )
