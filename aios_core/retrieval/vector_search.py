"""Search vector indexes, and keep each equal to its rows in the database.

    rows (in state.db, authoritative) ──> index (exact or Chroma, derived)

The indexes are used on one worker thread. An index is synced at its first search: the
numbers that it has are compared with those of the rows, and the difference is added or
removed, so that a crash leaves neither missing nor extra vectors. From then on, `changed`
passes every committed change on. While an index fails, exact search over the rows replaces
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from aios_core.config import RetrievalConfig
from aios_core.errors import BackendError, KernelClosed
from aios_core.retrieval.embedding import Vector
from aios_core.retrieval.index_choice import Indexes, choose
from aios_core.retrieval.nearest import Found, VectorIndex, exact
from aios_core.retrieval.vector_rows import (
    COMPONENT,
    SCHEMA,
    Row,
    find_space,
    ids_in,
    load,
    pack,
)
from aios_core.state import Connection, State, StateOpener, Vault

T = TypeVar("T")

log = logging.getLogger(__name__)

_FILL: Final = 5_000  # rows that are added to an index at a time


class VectorSpaces:
    """Searches the vector indexes of files and collections. Used on the kernel's loop only.

    The first search opens the indexes, and starts the worker thread.
    """

    def __init__(
        self,
        state: StateOpener,
        config: RetrievalConfig | None = None,
        *,
        choose_indexes: Callable[[State], Indexes] | None = None,
    ) -> None:
        self._state = state
        self._choose = choose_indexes or partial(choose, config or RetrievalConfig())
        state.add_migrations(COMPONENT, SCHEMA)
        self._worker: ThreadPoolExecutor | None = None
        self._indexes: Indexes | None = None  # this and the next: used by the worker
        self._in_step: dict[int, _Filled] = {}
        self._is_closed = False

    async def nearest(
        self, space: str, vector: Vector, k: int, *, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        """Return the `k` vectors of an index that are nearest to a vector, best first.

        With `among`, return only vectors with these numbers.
        """
        state = await self._state.opened()
        packed = pack(vector)
        return await self._run(lambda: self._nearest(state, space, packed, k, among))

    async def changed(
        self, space: str, added: Sequence[tuple[int, Vector]], removed: Iterable[int]
    ) -> None:
        """Pass a committed change on to an index. One that is not synced yet ignores it."""
        if self._indexes is None or not (added or removed):
            return
        state = await self._state.opened()
        rows = [(number, pack(vector)) for number, vector in added]
        gone = list(removed)
        await self._run(lambda: self._change(state, space, rows, gone))

    async def close(self) -> None:
        """Close all indexes and stop the worker. Idempotent."""
        self._is_closed = True
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await asyncio.to_thread(self._shut, worker)

    # --- on the worker -----------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise KernelClosed("the kernel is closed")
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "aios-vectors")
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _nearest(
        self, state: State, space: str, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        number = state.database.read(lambda connection: find_space(connection, space))
        if number is None or not any(vector) or among == frozenset():
            return []
        try:
            index = self._filled(state, number, len(vector))
            found = index.nearest(number, vector, k, among)
            if among is None or len(found) >= min(k, len(among)):
                return found
        except BackendError as exc:
            self._in_step.pop(number, None)
            log.warning("%s; searching all vectors exactly instead", exc)
        return self._compared(state, number, vector, k, among)

    def _compared(
        self, state: State, space: int, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        """Search without the index: read all rows and compare them."""

        def work(connection: Connection) -> list[Found]:
            ids = ids_in(connection, space) if among is None else among
            return exact(_rows(state.vault, space, ids, connection), vector, k)

        return state.database.read(work)

    def _filled(self, state: State, space: int, row_bytes: int) -> VectorIndex:
        """Return what holds an index, after making it equal to the rows."""
        if self._indexes is None:
            self._indexes = self._choose(state)
        filled = self._in_step.get(space)
        if filled and filled.index.holds(space):
            if filled.index is self._indexes.of(filled.count * row_bytes, filled.index):
                return filled.index
            filled.index.remove(space, set(filled.index.ids(space)))  # it grew large: move it
        there = state.database.read(lambda connection: ids_in(connection, space))
        index = self._indexes.of(len(there) * row_bytes)
        have = index.ids(space)
        if extra := have - there:
            index.remove(space, extra)
        missing = sorted(there - have)
        for start in range(0, len(missing), _FILL):
            some = missing[start : start + _FILL]
            index.add(space, state.database.read(partial(_rows, state.vault, space, some)))
        self._in_step[space] = _Filled(index, len(there))
        return index

    def _change(self, state: State, space: str, rows: list[Row], gone: list[int]) -> None:
        number = state.database.read(lambda connection: find_space(connection, space))
        filled = self._in_step.get(number) if number is not None else None
        if number is None or filled is None:
            return
        try:
            if gone:
                filled.index.remove(number, gone)
            if rows:
                filled.index.add(number, rows)
            filled.count += len(rows) - len(gone)
        except BackendError as exc:
            del self._in_step[number]
            log.warning("%s; the next search syncs it again", exc)

    def _shut(self, worker: ThreadPoolExecutor) -> None:
        worker.shutdown(cancel_futures=True)
        if self._indexes is not None:
            self._indexes.close()
            self._indexes = None


@dataclass(slots=True)
class _Filled:
    """An index that equals its rows, and what holds it."""

    index: VectorIndex
    count: int  # vectors in it


def _rows(vault: Vault, space: int, ids: Iterable[int], connection: Connection) -> list[Row]:
    return list(chain.from_iterable(load(connection, vault, space, ids)))
