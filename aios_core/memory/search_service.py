"""Serve searches in memory by the vectors of chunks, which are made at the first search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.labels import with_labels
from aios_core.memory.records import MemoryHit
from aios_core.memory.requests import MemorySearch
from aios_core.memory.tables import LazyTables
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder
from aios_core.syscalls import Request

EMBED_CHARS: Final = 1 << 18  # characters embedded before their vectors are stored


class SearchService:
    """Serves `MemorySearch`. Embeds new and changed texts before it searches."""

    def __init__(self, tables: LazyTables, embedder: BilledEmbedder | None) -> None:
        self._tables, self._embedder = tables, embedder

    def handlers(self) -> Mapping[type[Request[Any]], Callable[..., Any]]:
        """Map each request type to its handler."""
        return {MemorySearch: self._search}

    async def _search(self, process: AgentProcess, request: MemorySearch) -> Any:
        if self._embedder is None:
            raise InvalidRequest("memory.search needs an embedder; this kernel has none")
        owner, prefix, embedder = request.owner or process.identity, request.prefix, self._embedder
        tables = await self._tables.open()
        database = tables.state.database
        missing = partial(
            tables.vectors.stale_blocks,
            owner=owner,
            prefix=prefix,
            embedder=embedder.name,
            most_chars=EMBED_CHARS,
        )
        while found := await database.aread(missing):
            texts = [text for work in found for text in work.texts]
            vectors = iter(await embedder.embed_for(process, texts) if texts else ())
            for work in found:
                own = [next(vectors) for _ in work.texts]
                await database.awrite(
                    partial(
                        tables.vectors.store,
                        owner=owner,
                        work=work,
                        vectors=own,
                        embedder=embedder.name,
                    )
                )
        (query,) = await embedder.embed_for(process, [request.query])
        hits: tuple[MemoryHit, ...]
        hits, labels = await database.aread(
            partial(
                tables.vectors.nearest,
                owner=owner,
                prefix=prefix,
                embedder=embedder.name,
                query=query,
                limit=request.limit,
            )
        )
        return with_labels(hits, labels)
