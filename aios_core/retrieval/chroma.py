"""Chroma as an index: embedded in this process, or a server.

The only file that imports `chromadb`, at the first search, since that takes a
second. Chroma gets numbers and vectors, one collection for each space, and nothing
else: no text, no path, no name of an agent, and never a function that embeds (its
default one downloads a model). Its telemetry is off.

What Chroma loses (a kill, a power cut, a deleted folder) is added again from the
rows when the space is next filled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from aios_core.errors import BackendError
from aios_core.private_files import tighten_below
from aios_core.retrieval.nearest import Found
from aios_core.retrieval.vector_rows import Row, unpack

T = TypeVar("T")

_BATCH: Final = 1_000
_AMONG_FACTOR: Final = 8  # how many times as many are asked for where only some count
# What HNSW (Malkov and Yashunin, 2016) is built and searched with; see bench/retrieval.py.
_HNSW: Final = {"space": "cosine", "ef_construction": 200, "max_neighbors": 32, "ef_search": 200}


def is_installed() -> bool:
    """Return whether there is a `chromadb`; imports nothing."""
    return find_spec("chromadb") is not None


class ChromaIndex:
    """See the module.

    Args:
        path: where the embedded one keeps its files; None: nowhere, in memory.
        url: of a server, instead.
        instance: tells the collections of this state directory from those of others.

    Its methods raise `BackendError`.
    """

    name = "chroma"

    def __init__(self, path: Path | None, *, url: str | None = None, instance: str) -> None:
        self._path = path
        self._url = url
        self._instance = instance
        self._client: Any = None
        self._collections: dict[int, Any] = {}

    def holds(self, space: int) -> bool:
        return space in self._collections

    def ids(self, space: int) -> AbstractSet[int]:
        return self._do(
            lambda: {int(number) for number in self._collection(space).get(include=[])["ids"]}
        )

    def add(self, space: int, rows: Sequence[Row]) -> None:
        self._do(lambda: self._add(space, rows))

    def remove(self, space: int, ids: Collection[int]) -> None:
        self._do(lambda: self._remove(space, list(map(str, ids))))

    def nearest(
        self, space: int, vector: bytes, k: int, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        return self._do(lambda: self._nearest(space, vector, k, among))

    def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            self._collections.clear()
            client.close()

    # --- inside ------------------------------------------------------------------------------

    def _do(self, work: Callable[[], T]) -> T:
        """Do it; a failure loses the client, so that the next try begins anew."""
        try:
            return work()
        except Exception as exc:
            self._collections.clear()
            self._client = None
            where = self._url or self._path or "in memory"
            raise BackendError(f"Chroma ({where}) failed: {exc}") from exc

    def _collection(self, space: int) -> Any:
        if space not in self._collections:
            if self._client is None:
                self._client = self._connected()
            self._collections[space] = self._client.get_or_create_collection(
                f"aios-{self._instance}-{space}",
                configuration={"hnsw": dict(_HNSW)},
                embedding_function=None,
            )
        return self._collections[space]

    def _connected(self) -> Any:
        import chromadb  # noqa: PLC0415 - slow to import, and an extra
        from chromadb.config import Settings  # noqa: PLC0415

        settings = Settings(anonymized_telemetry=False)
        if self._url is not None:
            at = urlsplit(self._url)
            is_secure = at.scheme == "https"
            return chromadb.HttpClient(
                host=at.hostname or "localhost",
                port=at.port or (443 if is_secure else 8_000),
                ssl=is_secure,
                settings=settings,
            )
        if self._path is None:
            return chromadb.EphemeralClient(settings=settings)
        self._path.mkdir(mode=0o700, exist_ok=True)  # below a state directory that is there
        client = chromadb.PersistentClient(path=str(self._path), settings=settings)
        tighten_below(self._path)
        return client

    def _add(self, space: int, rows: Sequence[Row]) -> None:
        collection = self._collection(space)
        # HNSW has no place for what has no direction.
        rows = [row for row in rows if any(row[1])]
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            collection.upsert(
                ids=[str(number) for number, _ in some],
                embeddings=[list(unpack(packed)) for _, packed in some],
            )

    def _remove(self, space: int, ids: list[str]) -> None:
        collection = self._collection(space)
        for start in range(0, len(ids), _BATCH):
            collection.delete(ids=ids[start : start + _BATCH])

    def _nearest(
        self, space: int, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        collection = self._collection(space)
        wanted = k if among is None else k * _AMONG_FACTOR
        if not collection.count():
            return []
        answer = collection.query(
            query_embeddings=[list(unpack(vector))], n_results=wanted, include=["distances"]
        )
        found = [
            (int(number), 1.0 - float(distance))
            for number, distance in zip(answer["ids"][0], answer["distances"][0], strict=True)
        ]
        return [hit for hit in found if among is None or hit[0] in among][:k]
