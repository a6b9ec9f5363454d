"""Fixtures of the tests of the semantic index: files without a storage manager, and embedders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aios_core.config import RetrievalConfig
from aios_core.cores.embedding.hashing import hashed
from aios_core.process import ProcessTable
from aios_core.retrieval.embedding import BilledEmbedder, Vector
from aios_core.retrieval.index_choice import IndexSelector
from aios_core.retrieval.vector_search import VectorSearch
from aios_core.state import StateOpener
from aios_core.storage.file_indexer import FileIndexer
from aios_core.storage.semantic_index import FileState, Hit


@dataclass
class Files:
    """A `FileFeed` of files in memory."""

    states: dict[int, FileState] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    seq: int = 0

    def write(self, owner: str, path: str, text: str | bytes, **facts: frozenset[str]) -> int:
        """Create or change a file. Returns the number of the change."""
        file = self.find(owner, path) or len(self.states) + 1
        self.data[file] = text.encode() if isinstance(text, str) else text
        self.note(file, owner=owner, path=path, size=len(self.data[file]), is_live=True, **facts)
        return file

    def find(self, owner: str, path: str) -> int | None:
        return next((n for n, s in self.states.items() if (s.owner, s.path) == (owner, path)), None)

    def delete(self, file: int) -> None:
        self.note(file, is_live=False)

    def move(self, file: int, path: str) -> None:
        self.note(file, path=path)

    def note(self, file: int, **facts: object) -> None:
        self.seq += 1
        old = self.states.get(file) or FileState(0, file, "", "", 0, 0, is_live=True)
        self.states[file] = replace(old, seq=self.seq, version=old.version + 1, **facts)  # type: ignore[arg-type]

    async def changed(self, after: int, limit: int = 256) -> Sequence[FileState]:
        await asyncio.sleep(0)
        later = [state for state in self.states.values() if state.seq > after]
        return sorted(later, key=lambda state: state.seq)[:limit]

    async def content(self, state: FileState) -> bytes | None:
        await asyncio.sleep(0)
        return self.data[state.file] if self.states[state.file] == state else None


class Counting:
    """The hashing embedder; it records the texts that it embeds, and fails on demand."""

    def __init__(self, name: str = "counting-1") -> None:
        self.name = name
        self.dimensions = 256
        self.texts: list[str] = []
        self.failures: list[Exception] = []
        self.refuses: Callable[[str], bool] = lambda _: False
        self.refusal: Exception = ValueError()
        self._news = asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        if any(map(self.refuses, texts)):
            raise self.refusal
        self.texts += texts
        self._news.set()
        return [hashed(text, self.dimensions) for text in texts]

    async def has_seen(self, text: str) -> None:
        """Wait until it was asked for the vector of a text."""
        while text not in self.texts:
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


@dataclass
class Rig:
    """An index over files, in a state directory."""

    files: Files
    embedder: Counting
    index: FileIndexer
    vector_search: VectorSearch
    opener: StateOpener

    async def find(self, owner: str, query: str, *, k: int = 5, path: str = "/") -> list[Hit]:
        """Search with all changes so far included."""
        process = ProcessTable().spawn("reader", now=0.0)
        found = await self.index.retrieve(process, owner, query, k=k, path=path, seq=self.files.seq)
        return list(found)

    async def paths(self, owner: str, query: str, **facts: object) -> list[str]:
        return [hit.path for hit in await self.find(owner, query, **facts)]  # type: ignore[arg-type]


@asynccontextmanager
async def rigged(
    directory: str | Path = ":memory:",
    *,
    files: Files | None = None,
    embedder: Counting | None = None,
    config: RetrievalConfig | None = None,
    key: bytes | None = None,
    indexes: IndexSelector | None = None,
) -> AsyncIterator[Rig]:
    """Build a rig, and close it in the order in which a kernel does."""
    config = config or RetrievalConfig(index="exact", chunk_chars=200, overlap_chars=20)
    files, embedder = files or Files(), embedder or Counting()
    opener = StateOpener(directory, lambda: key)
    vector_search = VectorSearch(opener, config, selector=indexes and (lambda _: indexes))
    index = FileIndexer(opener, BilledEmbedder(embedder), vector_search, config)
    await index.start(files)
    try:
        yield Rig(files, embedder, index, vector_search, opener)
        index.check()
    finally:
        await index.close()
        await vector_search.close()
        await opener.close()
