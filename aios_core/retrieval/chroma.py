"""Search vector indexes with Chroma, embedded in this process or on a server.

This is the only file that imports `chromadb`; it does so at the first search, as the import
takes a second. Chroma gets only numbers and vectors, in one collection for each index: no
text, no path, no name of an agent, and no embedding function (its default one downloads a
model). Its telemetry is off.

Vectors that Chroma loses (by a kill, a power cut or a deleted folder) are added again from
the rows when the index is next built.
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
_AMONG_FACTOR: Final = 8  # request this many times `k` vectors if only some of them may be found
# The settings of HNSW (Malkov and Yashunin, 2016); measured by bench/retrieval.py.
_HNSW: Final = {"space": "cosine", "ef_construction": 200, "max_neighbors": 32, "ef_search": 200}


def is_installed() -> bool:
    """Return whether `chromadb` is installed, without importing it."""
    return find_spec("chromadb") is not None


class ChromaIndex:
    """Holds vector indexes in Chroma (a `VectorIndex`). Every method can raise `BackendError`.

    Args:
        path: the folder of the embedded Chroma; None: it keeps its data in memory.
        url: the address of a Chroma server to use instead.
        state_id: the id of this state directory, part of the names of its collections.
    """

    name = "chroma"

    def __init__(self, path: Path | None, *, url: str | None = None, state_id: str) -> None:
        self._path = path
        self._url = url
        self._state_id = state_id
        self._client: Any = None
        self._collections: dict[int, Any] = {}

    def holds(self, index: int) -> bool:
        return index in self._collections

    def ids(self, index: int) -> AbstractSet[int]:
        return self._do(
            lambda: {int(number) for number in self._collection(index).get(include=[])["ids"]}
        )

    def add(self, index: int, rows: Sequence[Row]) -> None:
        self._do(lambda: self._add(index, rows))

    def remove(self, index: int, ids: Collection[int]) -> None:
        self._do(lambda: self._remove(index, list(map(str, ids))))

    def nearest(
        self, index: int, vector: bytes, k: int, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        return self._do(lambda: self._nearest(index, vector, k, among))

    def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            self._collections.clear()
            client.close()

    # --- inside ------------------------------------------------------------------------------

    def _do(self, work: Callable[[], T]) -> T:
        """Run an operation; after a failure, drop the client, so that the next one reconnects."""
        try:
            return work()
        except Exception as exc:
            self._collections.clear()
            self._client = None
            where = self._url or self._path or "in memory"
            raise BackendError(f"Chroma ({where}) failed: {exc}") from exc

    def _collection(self, index: int) -> Any:
        if index not in self._collections:
            if self._client is None:
                self._client = self._connected()
            self._collections[index] = self._client.get_or_create_collection(
                f"aios-{self._state_id}-{index}",
                configuration={"hnsw": dict(_HNSW)},
                embedding_function=None,
            )
        return self._collections[index]

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
        self._path.mkdir(mode=0o700, exist_ok=True)  # the state directory exists
        client = chromadb.PersistentClient(path=str(self._path), settings=settings)
        tighten_below(self._path)
        return client

    def _add(self, index: int, rows: Sequence[Row]) -> None:
        collection = self._collection(index)
        # A zero vector has no direction, so HNSW cannot place it by cosine.
        rows = [row for row in rows if any(row[1])]
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            collection.upsert(
                ids=[str(number) for number, _ in some],
                embeddings=[list(unpack(packed)) for _, packed in some],
            )

    def _remove(self, index: int, ids: list[str]) -> None:
        collection = self._collection(index)
        for start in range(0, len(ids), _BATCH):
            collection.delete(ids=ids[start : start + _BATCH])

    def _nearest(
        self, index: int, vector: bytes, k: int, among: AbstractSet[int] | None
    ) -> list[Found]:
        collection = self._collection(index)
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
