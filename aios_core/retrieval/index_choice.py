"""Select how the vectors of an index are searched: exactly, or approximately with Chroma.

Comparing the query with every vector is exact, and faster up to some 200,000 vectors
(`bench/retrieval.py`); an approximate index is for more.
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
from aios_core.retrieval.vector_rows import state_id
from aios_core.state import State

log = logging.getLogger(__name__)

CHROMA: Final = "chroma"  # the folder in the state directory
LARGE_BYTES: Final = 200 << 20  # of one index: 200,000 vectors of 256 numbers


class IndexSelector:
    """Selects the implementation that holds a vector index, by the size of the index.

    Args:
        index: holds the indexes that are not large.
        make_large: builds what holds large indexes, when there is the first one; None: `index`
            holds all of them. May raise `BackendError`.
        large_bytes: an index with more bytes of vectors than this is large.
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
        """Return what should hold an index of `num_bytes`; `current` is what holds it now.

        An index that has been large stays where it is, even if it shrinks: it could be large
        again with the next change, and moving it takes time.
        """
        if self._large is not None and current is self._large:
            return self._large
        if self._make_large is None or num_bytes <= self._large_bytes:
            return self._index
        if self._large is None:
            self._large = self._make_large()
        return self._large

    def close(self) -> None:
        """Close both implementations."""
        self._index.close()
        if self._large is not None:
            self._large.close()


def select_index(config: RetrievalConfig, state: State) -> IndexSelector:
    """Select what holds the vector indexes of a state directory, by the configuration. Blocks.

    Chroma does not encrypt vectors, and a vector reveals much of its text: with an encrypted
    state, Chroma is used only on a configured server.

    Raises:
        ConfigError: the configuration requires Chroma, in an encrypted state directory.
        ModelLoadError: the configuration requires Chroma, which is not installed.
    """
    if config.index == "exact":
        return IndexSelector(ExactIndex())
    is_remote = config.chroma_url is not None
    is_required = config.index == "chroma" or is_remote
    if not is_required and (state.directory is None or state.cipher.is_encrypting):
        return IndexSelector(ExactIndex())
    if not is_installed():
        if is_required:
            raise ModelLoadError(
                "retrieval.index 'chroma' needs chromadb, which is not installed; "
                f"install it with: {install_command('retrieval')}"
            )
        log.info(
            "searches compare the query with every vector, as chromadb is not installed; for "
            "large collections: %s",
            install_command("retrieval"),
        )
        return IndexSelector(ExactIndex())
    if state.cipher.is_encrypting and not is_remote:
        allowed = "'exact' or 'auto' if state.encryption_key is set: Chroma does not encrypt"
        raise ConfigError("retrieval.index", config.index, allowed)
    make = partial(_chroma, config, state)
    return IndexSelector(make()) if is_required else IndexSelector(ExactIndex(), make)


def _chroma(config: RetrievalConfig, state: State) -> ChromaIndex:
    path = None if state.directory is None else state.directory / CHROMA
    name = state.database.write(state_id)
    return ChromaIndex(path, url=config.chroma_url, state_id=name)
