"""Which index a space of vectors is searched with.

Comparing a question with every vector is exact, and the faster way for as long as
they are not too many (`bench/retrieval.py`); an approximate index is for more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from aios_core.config import RetrievalConfig
from aios_core.distribution import install_command
from aios_core.errors import ConfigError, ModelLoadError
from aios_core.retrieval.chroma import ChromaIndex, is_installed
from aios_core.retrieval.nearest import ExactIndex, VectorIndex
from aios_core.retrieval.vector_rows import instance
from aios_core.state import State

log = logging.getLogger(__name__)

CHROMA: Final = "chroma"  # the folder below the state directory
LARGE_BYTES: Final = 200 << 20  # of one space: 200,000 vectors of 256 numbers


class Indexes:
    """One index for all spaces, or another for those that are large.

    Args:
        index: the one for all.
        make_large: makes the one for large spaces, when there is the first. May raise
            `BackendError`.
        large_bytes: a space with more bytes of vectors than this is large.
    """

    def __init__(
        self,
        index: VectorIndex,
        make_large: Callable[[], VectorIndex] | None = None,
        large_bytes: int = LARGE_BYTES,
    ) -> None:
        self._index = index
        self._make_large = make_large
        self._large: VectorIndex | None = None
        self._large_bytes = large_bytes

    def of(self, num_bytes: int, current: VectorIndex | None = None) -> VectorIndex:
        """The index for a space with so many bytes of vectors; `current`: which one it has.

        A space that was large keeps its index: it could be large again with the next change,
        and moving takes time.
        """
        if self._large is not None and current is self._large:
            return self._large
        if self._make_large is None or num_bytes <= self._large_bytes:
            return self._index
        if self._large is None:
            self._large = self._make_large()
        return self._large

    def close(self) -> None:
        """Free both."""
        self._index.close()
        if self._large is not None:
            self._large.close()


def choose(config: RetrievalConfig, state: State) -> Indexes:
    """The indexes that the configuration means for this state directory. Blocks.

    Chroma stores vectors as they are, and a vector tells much of its text: an encrypted
    state gets it only on a server that was named.

    Raises `ConfigError`, `ModelLoadError` (Chroma was asked for and is not installed).
    """
    if config.index == "exact":
        return Indexes(ExactIndex())
    is_remote = config.chroma_url is not None
    is_asked_for = config.index == "chroma" or is_remote
    if not is_asked_for and (state.directory is None or state.vault.is_sealing):
        return Indexes(ExactIndex())
    if not is_installed():
        if is_asked_for:
            raise ModelLoadError(
                "retrieval.index 'chroma' needs chromadb, which is not installed; "
                f"install it with: {install_command('retrieval')}"
            )
        log.info(
            "every vector is compared in a search, since chromadb is not installed; for large "
            "collections: %s",
            install_command("retrieval"),
        )
        return Indexes(ExactIndex())
    if state.vault.is_sealing and not is_remote:
        allowed = "'exact' or 'auto' while state.encryption_key is set: Chroma does not encrypt"
        raise ConfigError("retrieval.index", config.index, allowed)
    make = partial(_chroma, config, state)
    return Indexes(make()) if is_asked_for else Indexes(ExactIndex(), make)


def _chroma(config: RetrievalConfig, state: State) -> ChromaIndex:
    path = None if state.directory is None else state.directory / CHROMA
    name = state.database.write(instance)
    return ChromaIndex(path, url=config.chroma_url, instance=name)
