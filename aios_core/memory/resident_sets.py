"""The resident sets of all agents, kept equal to the committed state.

The writer delivers changes in the order of their commits, and each is applied in RAM then,
so that the content of a `ResidentSet` equals the committed state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aios_core.errors import KernelBug
from aios_core.memory.blocks import BlockRow, Change
from aios_core.memory.resident_set import ResidencyLimits, ResidentSet
from aios_core.memory.tables import LazyTables, MemoryTables
from aios_core.state import Connection

T = TypeVar("T")


class ResidentSets:
    """The resident sets of the agents in use. Used on the kernel's loop only.

    Args:
        tables: opens the tables on disk.
        residency: how much of one agent's memory may be in RAM, and the settings of LRU-K.
        limit: the maximum of all agents' pages together, in bytes.
        now: returns the kernel's time in seconds.
    """

    def __init__(
        self, tables: LazyTables, residency: ResidencyLimits, limit: int, now: Callable[[], float]
    ) -> None:
        self._tables, self._residency, self._limit, self._now = tables, residency, limit, now
        # By owner, the least recently used first.
        self._residents: OrderedDict[str, ResidentSet] = OrderedDict()
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self.resident_bytes = 0  # of all agents
        self._num_pending = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __len__(self) -> int:
        return len(self._residents)

    def forget(self, owner: str) -> None:
        """Drop the cached pages of an agent; later reads load them from disk."""
        resident = self._residents.pop(owner, None)
        if resident is not None:
            self.resident_bytes -= resident.resident_bytes

    async def close(self) -> None:
        """Wait for the changes in flight, then drop all cached pages."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._is_idle.wait()
        self._residents.clear()
        self.resident_bytes = 0

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        for resident in self._residents.values():
            resident.check()
        held = sum(resident.resident_bytes for resident in self._residents.values())
        if held != self.resident_bytes:
            raise KernelBug(f"the agents' pages take {held} bytes, not {self.resident_bytes}")
        if self._num_pending < 0 or self._is_idle.is_set() != (self._num_pending == 0):
            raise KernelBug(f"memory counts {self._num_pending} changes in flight, which is wrong")

    async def of(self, owner: str) -> ResidentSet:
        """Return the resident set of an agent; load its list of blocks at the first use.

        Use the result before the next await: during one, it may be dropped.
        """
        while (resident := self._residents.get(owner)) is None:
            loading = self._loading.get(owner)
            if loading is None:
                loading = self._loading[owner] = asyncio.ensure_future(self._load(owner))
                loading.add_done_callback(_retrieve_error)
            await asyncio.shield(loading)
        self._residents.move_to_end(owner)
        return resident

    async def _load(self, owner: str) -> None:
        """Load the list of an agent's blocks and their pinned pages.

        Goes through the writer's queue, so that the list includes the changes in flight.
        """
        try:
            tables = await self._tables.open()

            def load(connection: Connection) -> tuple[list[BlockRow], list[Change]]:
                rows = tables.blocks.all(connection, owner)
                read = partial(tables.blocks.pages, connection, owner)
                pinned = [row for row in rows if row.is_pinned]
                return rows, [Change(row, read(row, range(row.num_pages))) for row in pinned]

            def apply(loaded: tuple[list[BlockRow], list[Change]], now: float) -> None:
                rows, pinned = loaded
                resident = self._residents[owner] = ResidentSet(owner, rows, self._residency)
                for change in pinned:
                    resident.apply(change, now)
                self.resident_bytes += resident.resident_bytes
                self._make_room()

            await self._committed(tables, load, apply)
        finally:
            del self._loading[owner]

    async def in_order(
        self,
        tables: MemoryTables,
        resident: ResidentSet,
        name: str,
        work: Callable[[Connection], T],
        apply: Callable[[T, float], object],
    ) -> T:
        """Run `work` on the writer's thread, and `apply` its committed result to the resident set.

        While it is in flight, `resident.pending` counts it for the block `name`.
        """
        resident.pending[name] += 1

        def uncount() -> None:
            resident.pending[name] -= 1
            if not resident.pending[name]:
                del resident.pending[name]

        def apply_counted(result: T, now: float) -> None:
            self.apply_committed(resident, lambda: apply(result, now))

        return await self._committed(tables, work, apply_counted, uncount)

    async def _committed(
        self,
        tables: MemoryTables,
        work: Callable[[Connection], T],
        apply: Callable[[T, float], object],
        uncount: Callable[[], object] = lambda: None,
    ) -> T:
        """Return the result of `work` after `apply` was called with it, in commit order.

        Cancelling the await withdraws work that has not started. Work that has started is
        committed, and applied even then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            done = tables.state.database.submit(work)
        except BaseException:
            uncount()
            raise
        self._num_pending += 1
        self._is_idle.clear()

        def finish() -> None:
            uncount()
            self._num_pending -= 1
            if not self._num_pending:
                self._is_idle.set()
            if done.cancelled():
                answer.cancel()
            elif (failure := done.exception()) is not None:
                if not answer.done():
                    answer.set_exception(failure)
            else:
                apply(done.result(), self._now())
                if not answer.done():
                    answer.set_result(done.result())

        # The writer finishes transactions in commit order and `call_soon_threadsafe` keeps
        # that order, so RAM changes in the order of the database.
        done.add_done_callback(lambda _done: loop.call_soon_threadsafe(finish))
        try:
            return await answer
        except asyncio.CancelledError:
            done.cancel()
            raise

    def apply_committed(self, resident: ResidentSet, apply: Callable[[], object]) -> None:
        """Change a resident set, then evict pages until all sets are below the common limit."""
        before = resident.resident_bytes
        apply()
        if self._residents.get(resident.owner) is not resident:
            return  # dropped during an await; its bytes are no longer counted
        self.resident_bytes += resident.resident_bytes - before
        self._make_room()

    def _make_room(self) -> None:
        """Evict pages, those of the least recently used agents first."""
        if self.resident_bytes <= self._limit:
            return
        now = self._now()
        for resident in self._residents.values():
            excess = self.resident_bytes - self._limit
            if excess <= 0:
                return
            self.resident_bytes -= resident.evict(excess, now)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Mark the error as seen: if all waiters were cancelled, asyncio would log it."""
    if not future.cancelled():
        future.exception()
