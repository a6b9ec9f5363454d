"""Spaces of vectors that can be searched: the rows, and an index kept in step with them.

    rows (state.db, the truth) ──> index (Chroma or exact, derived)

The index works on one thread. A space is filled when it is first searched: what
the index has is compared with the rows by number, and the difference is made up,
so that nothing that a crash lost or left behind stays. From then on every change
that was committed is passed on (`changed`). An index that fails is replaced by an
exact search over the rows, until it works again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from aios_core.config import RetrievalConfig
from aios_core.embedding import Vector
from aios_core.errors import BackendError, ConfigError, KernelClosed, ModelLoadError
from aios_core.state import Connection, State, StateOpener, Vault
from aios_core.storage.semantic.chroma import ChromaIndex, is_installed
from aios_core.storage.semantic.nearest import ExactIndex, Found, VectorIndex, exact
from aios_core.storage.semantic.vectors import (
    COMPONENT,
    SCHEMA,
    Row,
    find_space,
    ids_in,
    instance,
    load,
    pack,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

CHROMA: Final = "chroma"  # the folder below the state directory
_FILL: Final = 5_000  # rows that an index is given at once


class VectorSpaces:
    """See the module. Belongs to the kernel's loop; opened by the first search or change."""

    def __init__(
        self,
        state: StateOpener,
        config: RetrievalConfig | None = None,
        *,
        make_index: Callable[[State], VectorIndex] | None = None,
    ) -> None:
        self._state = state
        settings = config or RetrievalConfig()
        self._make_index = make_index or (lambda state: choose_index(settings, state))
        state.add_migrations(COMPONENT, SCHEMA)
        self._worker: ThreadPoolExecutor | None = None
        self._index: VectorIndex | None = None  # the worker's, as the next
        self._in_step: set[int] = set()  # spaces that were filled
        self._is_closed = False

    async def nearest(
        self, space: str, vector: Vector, k: int, *, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        """The `k` vectors of a space that are nearest, of these numbers only, if `among`."""
        state = await self._state.opened()
        packed = pack(vector)
        return await self._run(lambda: self._nearest(state, space, packed, k, among))

    async def changed(
        self, space: str, added: Sequence[tuple[int, Vector]], removed: Iterable[int]
    ) -> None:
        """Tell the index what was committed. A space that nobody has searched waits for that."""
        if self._index is None or not (added or removed):
            return
        state = await self._state.opened()
        rows = [(number, pack(vector)) for number, vector in added]
        gone = list(removed)
        await self._run(lambda: self._change(state, space, rows, gone))

    async def close(self) -> None:
        """Free the index. Idempotent."""
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
            index = self._filled(state, number)
            found = index.nearest(number, vector, k, among)
            if among is None or len(found) >= min(k, len(among)):
                return found
        except BackendError as exc:
            self._in_step.discard(number)
            log.warning("%s; every vector is compared instead", exc)
        return self._compared(state, number, vector, k, among)

    def _compared(
        self, state: State, space: int, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        """Without the index: read the rows and compare them all."""

        def work(connection: Connection) -> list[Found]:
            ids = ids_in(connection, space) if among is None else among
            return exact(_rows(state.vault, space, ids, connection), vector, k)

        return state.database.read(work)

    def _filled(self, state: State, space: int) -> VectorIndex:
        """The index, in step with the rows of a space."""
        if self._index is None:
            self._index = self._make_index(state)
        index = self._index
        if space not in self._in_step or not index.holds(space):
            there = state.database.read(lambda connection: ids_in(connection, space))
            have = index.ids(space)
            if extra := have - there:
                index.remove(space, extra)
            missing = sorted(there - have)
            for start in range(0, len(missing), _FILL):
                some = missing[start : start + _FILL]
                index.add(space, state.database.read(partial(_rows, state.vault, space, some)))
            self._in_step.add(space)
        return index

    def _change(self, state: State, space: str, rows: list[Row], gone: list[int]) -> None:
        index = self._index
        number = state.database.read(lambda connection: find_space(connection, space))
        if index is None or number not in self._in_step:
            return
        try:
            if gone:
                index.remove(number, gone)
            if rows:
                index.add(number, rows)
        except BackendError as exc:
            self._in_step.discard(number)
            log.warning("%s; the next search fills it again", exc)

    def _shut(self, worker: ThreadPoolExecutor) -> None:
        worker.shutdown(cancel_futures=True)
        if self._index is not None:
            self._index.close()
            self._index = None


def choose_index(config: RetrievalConfig, state: State) -> VectorIndex:
    """The index that the configuration means for this state directory. Blocks.

    Chroma stores vectors as they are, and a vector tells much of its text: an encrypted
    state gets it only on a server that was named.

    Raises `ConfigError`, `ModelLoadError` (Chroma was asked for and is not installed).
    """
    if config.index == "exact":
        return ExactIndex()
    is_remote = config.chroma_url is not None
    is_asked_for = config.index == "chroma" or is_remote
    if not is_asked_for and (state.directory is None or state.vault.is_sealing):
        return ExactIndex()
    if not is_installed():
        if is_asked_for:
            raise ModelLoadError(
                "retrieval.index 'chroma' needs chromadb, which is not installed; "
                "install it with: pip install 'aios-core[retrieval]'"
            )
        log.info(
            "every vector is compared in a search, since chromadb is not installed; for large "
            "collections: pip install 'aios-core[retrieval]'"
        )
        return ExactIndex()
    if state.vault.is_sealing and not is_remote:
        allowed = "'exact' or 'auto' while state.encryption_key is set: Chroma does not encrypt"
        raise ConfigError("retrieval.index", config.index, allowed)
    path = None if state.directory is None else state.directory / CHROMA
    name = state.database.write(instance)
    return ChromaIndex(path, url=config.chroma_url, instance=name)


def _rows(vault: Vault, space: int, ids: Iterable[int], connection: Connection) -> list[Row]:
    return list(chain.from_iterable(load(connection, vault, space, ids)))
