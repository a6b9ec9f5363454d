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
from aios_core.retrieval.index_choice import IndexSelector, select_index
from aios_core.retrieval.nearest import Found, VectorIndex, exact_nearest
from aios_core.retrieval.vector_rows import (
    COMPONENT,
    SCHEMA,
    Row,
    find_index,
    ids_in,
    load,
    pack,
)
from aios_core.state import Cipher, Connection, State, StateOpener

T = TypeVar("T")

log = logging.getLogger(__name__)

_FILL: Final = 5_000  # rows that are added to an index at a time


class VectorSearch:
    """Searches the vector indexes of files and collections. Used on the kernel's loop only.

    The first search opens the indexes, and starts the worker thread.
    """

    def __init__(
        self,
        state: StateOpener,
        config: RetrievalConfig | None = None,
        *,
        selector: Callable[[State], IndexSelector] | None = None,
    ) -> None:
        self._state = state
        self._select_index = selector or partial(select_index, config or RetrievalConfig())
        state.add_migrations(COMPONENT, SCHEMA)
        self._worker: ThreadPoolExecutor | None = None
        self._indexes: IndexSelector | None = None  # this and the next: used by the worker
        self._synced_indexes: dict[int, _SyncedIndex] = {}
        self._is_closed = False

    async def nearest(
        self, name: str, vector: Vector, k: int, *, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        """Return the `k` vectors of an index that are nearest to a vector, best first.

        With `among`, return only vectors with these numbers.
        """
        state = await self._state.open()
        packed = pack(vector)
        return await self._run(lambda: self._nearest(state, name, packed, k, among))

    async def changed(
        self, name: str, added: Sequence[tuple[int, Vector]], removed: Iterable[int]
    ) -> None:
        """Pass a committed change on to an index. One that is not synced yet ignores it."""
        if self._indexes is None or not (added or removed):
            return
        state = await self._state.open()
        rows = [(number, pack(vector)) for number, vector in added]
        numbers = list(removed)
        await self._run(lambda: self._change(state, name, rows, numbers))

    async def close(self) -> None:
        """Close all indexes and stop the worker. Idempotent."""
        self._is_closed = True
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await asyncio.to_thread(self._close_on_worker, worker)

    # --- on the worker -----------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise KernelClosed("the kernel is closed")
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "aios-vectors")
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _nearest(
        self, state: State, name: str, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        number = state.database.read(lambda connection: find_index(connection, name))
        if number is None or not any(vector) or among == frozenset():
            return []
        try:
            index = self._synced(state, number, len(vector))
            found = index.nearest(number, vector, k, among)
            if among is None or len(found) >= min(k, len(among)):
                return found
        except BackendError as exc:
            self._synced_indexes.pop(number, None)
            log.warning("%s; searching all vectors exactly instead", exc)
        return self._search_rows(state, number, vector, k, among)

    def _search_rows(
        self, state: State, number: int, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        """Search without the index: read all rows and compare them."""

        def work(connection: Connection) -> list[Found]:
            ids = ids_in(connection, number) if among is None else among
            return exact_nearest(_rows(state.cipher, number, ids, connection), vector, k)

        return state.database.read(work)

    def _synced(self, state: State, number: int, row_bytes: int) -> VectorIndex:
        """Return what holds an index, after making it equal to the rows."""
        if self._indexes is None:
            self._indexes = self._select_index(state)
        synced = self._synced_indexes.get(number)
        if synced and synced.index.holds(number):
            if synced.index is self._indexes.of(synced.count * row_bytes, synced.index):
                return synced.index
            synced.index.remove(number, set(synced.index.ids(number)))  # it grew large: move it
        there = state.database.read(lambda connection: ids_in(connection, number))
        index = self._indexes.of(len(there) * row_bytes)
        have = index.ids(number)
        if extra := have - there:
            index.remove(number, extra)
        missing = sorted(there - have)
        for start in range(0, len(missing), _FILL):
            some = missing[start : start + _FILL]
            index.add(number, state.database.read(partial(_rows, state.cipher, number, some)))
        self._synced_indexes[number] = _SyncedIndex(index, len(there))
        return index

    def _change(self, state: State, name: str, rows: list[Row], removed: list[int]) -> None:
        number = state.database.read(lambda connection: find_index(connection, name))
        synced = self._synced_indexes.get(number) if number is not None else None
        if number is None or synced is None:
            return
        try:
            if removed:
                synced.index.remove(number, removed)
            if rows:
                synced.index.add(number, rows)
            synced.count += len(rows) - len(removed)
        except BackendError as exc:
            del self._synced_indexes[number]
            log.warning("%s; the next search syncs it again", exc)

    def _close_on_worker(self, worker: ThreadPoolExecutor) -> None:
        worker.shutdown(cancel_futures=True)
        if self._indexes is not None:
            self._indexes.close()
            self._indexes = None


@dataclass(slots=True)
class _SyncedIndex:
    """An index that equals its rows, and what holds it."""

    index: VectorIndex
    count: int  # vectors in it


def _rows(cipher: Cipher, number: int, ids: Iterable[int], connection: Connection) -> list[Row]:
    return list(chain.from_iterable(load(connection, cipher, number, ids)))
