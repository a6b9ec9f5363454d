"""What is in RAM of all agents' blocks, in step with the disk.

Changes come back from the writer in the order of their commits and are shown then, so
that what a `Space` holds equals what is committed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aios_core.errors import KernelBug
from aios_core.memory.blocks import BlockRow, Change
from aios_core.memory.resident import Residence, Space
from aios_core.memory.tables import Shelf, Tables
from aios_core.state import Connection

T = TypeVar("T")


class Spaces:
    """The spaces of the agents that are in use. Belongs to the kernel's loop.

    Args:
        shelf: what is on disk.
        residence: how much of one agent is kept in RAM, and what goes first.
        limit: bytes of all agents' pages together.
        now: the kernel's clock, in seconds.
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
        """Let go of what is in RAM of an agent; whoever reads it again brings it back."""
        space = self._spaces.pop(owner, None)
        if space is not None:
            self.resident_bytes -= space.resident_bytes

    async def close(self) -> None:
        """Wait for the changes under way, and let go of everything."""
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
            raise KernelBug(f"memory miscounts {self._num_pending} changes under way")

    async def of(self, owner: str) -> Space:
        """What is known of an agent's blocks. There is no await between having it and using it."""
        while (space := self._spaces.get(owner)) is None:
            loading = self._loading.get(owner)
            if loading is None:
                loading = self._loading[owner] = asyncio.ensure_future(self._load(owner))
                loading.add_done_callback(_look_at)
            await asyncio.shield(loading)
        self._spaces.move_to_end(owner)
        return space

    async def _load(self, owner: str) -> None:
        """Learn which blocks there are, behind the changes that are under way."""
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
        """Do `work` on the writer's thread, and `show` its durable result in the space."""
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
        """The result of `work`, after `show` was called with it: in the order of the commits.

        A cancelled await takes the work back if it has not begun. Otherwise it is shown all
        the same.
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

        done.add_done_callback(lambda _done: loop.call_soon_threadsafe(finish))
        try:
            return await answer
        except asyncio.CancelledError:
            done.cancel()
            raise

    def show(self, space: Space, show: Callable[[], object]) -> None:
        """Change what a space holds, and keep all of them together below their limit."""
        before = space.resident_bytes
        show()
        if self._spaces.get(space.owner) is not space:
            return  # forgotten meanwhile
        self.resident_bytes += space.resident_bytes - before
        self._make_room()

    def _make_room(self) -> None:
        """Evict pages of those agents first who were silent for longest."""
        if self.resident_bytes <= self._limit:
            return
        now = self._now()
        for space in self._spaces.values():
            excess = self.resident_bytes - self._limit
            if excess <= 0:
                return
            self.resident_bytes -= space.evict(excess, now)


def _look_at(future: asyncio.Future[Any]) -> None:
    """Those who waited may all have gone; then nobody else looks at its error."""
    if not future.cancelled():
        future.exception()
