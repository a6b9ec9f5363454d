"""The resident sets of all agents, kept equal to the committed state.

The writer delivers changes in the order of their commits, and each is applied in RAM then,
so that the content of a `Space` equals the committed state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aios_core.errors import KernelBug
from aios_core.memory.blocks import BlockRow, Change
from aios_core.memory.resident_set import Residence, Space
from aios_core.memory.tables import Shelf, Tables
from aios_core.state import Connection

T = TypeVar("T")


class Spaces:
    """The resident sets of the agents in use. Used on the kernel's loop only.

    Args:
        shelf: opens the tables on disk.
        residence: how much of one agent's memory may be in RAM, and the settings of LRU-K.
        limit: the maximum of all agents' pages together, in bytes.
        now: returns the kernel's time in seconds.
    """

    def __init__(
        self, shelf: Shelf, residence: Residence, limit: int, now: Callable[[], float]
    ) -> None:
        self._shelf, self._residence, self._limit, self._now = shelf, residence, limit, now
        self._spaces: OrderedDict[str, Space] = OrderedDict()  # the least recently used first
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self.resident_bytes = 0  # of all spaces
        self._num_pending = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def __len__(self) -> int:
        return len(self._spaces)

    def forget(self, owner: str) -> None:
        """Drop the cached pages of an agent; later reads load them from disk."""
        space = self._spaces.pop(owner, None)
        if space is not None:
            self.resident_bytes -= space.resident_bytes

    async def close(self) -> None:
        """Wait for the changes in flight, then drop all cached pages."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._settled.wait()
        self._spaces.clear()
        self.resident_bytes = 0

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        for space in self._spaces.values():
            space.check()
        held = sum(space.resident_bytes for space in self._spaces.values())
        if held != self.resident_bytes:
            raise KernelBug(f"the agents' pages take {held} bytes, not {self.resident_bytes}")
        if self._num_pending < 0 or self._settled.is_set() != (self._num_pending == 0):
            raise KernelBug(f"memory counts {self._num_pending} changes in flight, which is wrong")

    async def of(self, owner: str) -> Space:
        """Return the resident set of an agent; load its list of blocks at the first use.

        Use the result before the next await: during one, it may be dropped.
        """
        while (space := self._spaces.get(owner)) is None:
            loading = self._loading.get(owner)
            if loading is None:
                loading = self._loading[owner] = asyncio.ensure_future(self._load(owner))
                loading.add_done_callback(_retrieve_error)
            await asyncio.shield(loading)
        self._spaces.move_to_end(owner)
        return space

    async def _load(self, owner: str) -> None:
        """Load the list of an agent's blocks and their pinned pages.

        Goes through the writer's queue, so that the list includes the changes in flight.
        """
        try:
            tables = await self._shelf.opened()

            def load(connection: Connection) -> tuple[list[BlockRow], list[Change]]:
                rows = tables.blocks.all(connection, owner)
                read = partial(tables.blocks.pages, connection, owner)
                pinned = [row for row in rows if row.is_pinned]
                return rows, [Change(row, read(row, range(row.num_pages))) for row in pinned]

            def show(loaded: tuple[list[BlockRow], list[Change]], now: float) -> None:
                rows, pinned = loaded
                space = self._spaces[owner] = Space(owner, rows, self._residence)
                for change in pinned:
                    space.apply(change, now)
                self.resident_bytes += space.resident_bytes
                self._make_room()

            await self._committed(tables, load, show)
        finally:
            del self._loading[owner]

    async def in_order(
        self,
        tables: Tables,
        space: Space,
        name: str,
        work: Callable[[Connection], T],
        show: Callable[[T, float], object],
    ) -> T:
        """Run `work` on the writer's thread, and `show` its committed result in the space.

        While it is in flight, `space.pending` counts it for the block `name`.
        """
        space.pending[name] += 1

        def settle() -> None:
            space.pending[name] -= 1
            if not space.pending[name]:
                del space.pending[name]

        def show_counted(result: T, now: float) -> None:
            self.show(space, lambda: show(result, now))

        return await self._committed(tables, work, show_counted, settle)

    async def _committed(
        self,
        tables: Tables,
        work: Callable[[Connection], T],
        show: Callable[[T, float], object],
        settle: Callable[[], object] = lambda: None,
    ) -> T:
        """Return the result of `work` after `show` was called with it, in commit order.

        Cancelling the await withdraws work that has not started. Work that has started is
        committed, and shown even then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            done = tables.state.database.submit(work)
        except BaseException:
            settle()
            raise
        self._num_pending += 1
        self._settled.clear()

        def finish() -> None:
            settle()
            self._num_pending -= 1
            if not self._num_pending:
                self._settled.set()
            if done.cancelled():
                answer.cancel()
            elif (failure := done.exception()) is not None:
                if not answer.done():
                    answer.set_exception(failure)
            else:
                show(done.result(), self._now())
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

    def show(self, space: Space, show: Callable[[], object]) -> None:
        """Change a space, then evict pages until all spaces together are below the limit."""
        before = space.resident_bytes
        show()
        if self._spaces.get(space.owner) is not space:
            return  # dropped during an await; its bytes are no longer counted
        self.resident_bytes += space.resident_bytes - before
        self._make_room()

    def _make_room(self) -> None:
        """Evict pages, those of the least recently used agents first."""
        if self.resident_bytes <= self._limit:
            return
        now = self._now()
        for space in self._spaces.values():
            excess = self.resident_bytes - self._limit
            if excess <= 0:
                return
            self.resident_bytes -= space.evict(excess, now)


def _retrieve_error(future: asyncio.Future[Any]) -> None:
    """Mark the error as seen: if all waiters were cancelled, asyncio would log it."""
    if not future.cancelled():
        future.exception()
