"""Serve the requests for collections: items under keys, found by semantic search.

    agent.collections.put("notes", [CollectionItem("a", "the kettle is in the kitchen")])
    agent.collections.search("notes", "where is the kettle?", k=3)

An item is durable when `put` returns. The kernel's embedder makes the vectors, unless they
are given with the items (a framework's own embeddings); all vectors of a collection are of
one embedder. An item gets the labels of the agent that puts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aios_core.config import RetrievalConfig
from aios_core.errors import InvalidRequest, KernelBug
from aios_core.labels import with_all_labels, with_labels
from aios_core.manager import Port
from aios_core.permissions import Resource
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder, Vector
from aios_core.retrieval.vector_search import VectorSearch
from aios_core.state import StateOpener
from aios_core.storage.collections.requests import (
    CollectionDelete,
    CollectionGet,
    CollectionItem,
    CollectionMatch,
    CollectionPut,
    CollectionSearch,
)
from aios_core.storage.collections.table import (
    COMPONENT,
    SCHEMA,
    delete,
    find,
    get,
    item,
    require_same_embedder,
    store,
    usage,
    where,
)
from aios_core.syscalls import Request


class CollectionManager:
    """Serves the collection requests of all agents (a `Manager`). Used on the kernel's loop only.

    Args:
        state: opens the state directory at the first request.
        embedder: embeds items and queries; owned by the kernel, which closes it.
        vector_search: searches the vectors of collections.
        config: the quota of an owner's collections.
    """

    def __init__(
        self,
        state: StateOpener,
        embedder: BilledEmbedder,
        vector_search: VectorSearch,
        config: RetrievalConfig | None = None,
    ) -> None:
        self._state = state
        self._embedder = embedder
        self._vector_search = vector_search
        self._max_bytes = (config or RetrievalConfig()).max_collection_bytes
        state.add_migrations(COMPONENT, SCHEMA)

    @property
    def name(self) -> str:
        return "collection"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return (CollectionPut, CollectionGet, CollectionDelete, CollectionSearch)

    async def start(self) -> None:
        """Do nothing: the first request opens the state."""

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        """Serve one request. Raises `Conflict`, `InvalidRequest`, `QuotaExceeded`, `StateError`."""
        owner = request.of(process.identity)
        match request:
            case CollectionPut():
                return await self._put(process, owner, request)
            case CollectionGet():
                return await self._get(owner, request)
            case CollectionDelete():
                return await self._delete(owner, request)
            case CollectionSearch():
                return await self._search(process, owner, request)
            case _:
                raise KernelBug(f"not a request for collections: {request!r}")

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether an owner has a collection of that name; True without a name."""
        owner, name = resource.owner, resource.name
        if resource.kind != "collection" or owner is None:
            return None
        state = await self._state.open()
        return not name or await state.database.aread(lambda c: find(c, owner, name)) is not None

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity ever had a collection."""
        state = await self._state.open()
        return bool(await state.database.aread(lambda c: usage(c, identity)))

    def forget(self, process: AgentProcess) -> None:
        """Do nothing: nothing is cached for an agent."""

    async def close(self) -> None:
        """Do nothing: the kernel closes the vector indexes later."""

    def check(self) -> None:
        """Do nothing: there is no state in RAM."""

    # --- inside ------------------------------------------------------------------------------

    async def _put(
        self, process: AgentProcess, owner: str, request: CollectionPut
    ) -> tuple[str, ...]:
        items = list(request.items)
        if not items:
            return ()
        given = [entry.vector for entry in items if entry.vector is not None]
        if given and len(given) < len(items):
            raise InvalidRequest("items: some have vectors and some do not; give all or none")
        texts = [entry.text for entry in items]
        vectors = given or await self._embedder.embed_for(process, texts)
        pairs = list(zip(items, map(normalised, vectors), strict=True))
        state = await self._state.open()
        made_by = "" if given else self._embedder.name
        labels = frozenset(process.labels)
        collection, numbers, removed = await state.database.awrite(
            lambda c: store(
                c,
                state.cipher,
                owner,
                request.collection,
                pairs,
                made_by=made_by,
                labels=labels,
                max_bytes=self._max_bytes,
            )
        )
        added = list(zip(numbers, (vector for _, vector in pairs), strict=True))
        await self._vector_search.changed(collection.index_name, added, removed)
        return tuple(entry.key for entry in items)

    async def _get(self, owner: str, request: CollectionGet) -> Any:
        state = await self._state.open()
        items = await state.database.aread(
            lambda c: get(c, state.cipher, owner, request.collection, request.keys)
        )
        # The caller named the keys itself, so the labels of the keys reveal nothing new.
        values = (item.labels for item in items)
        return with_labels(tuple(items), frozenset[str]().union(*values))

    async def _delete(self, owner: str, request: CollectionDelete) -> int:
        state = await self._state.open()
        collection, removed = await state.database.awrite(
            lambda c: delete(c, owner, request.collection, request.keys)
        )
        if collection is not None:
            await self._vector_search.changed(collection.index_name, (), removed)
        return len(removed)

    async def _search(self, process: AgentProcess, owner: str, request: CollectionSearch) -> Any:
        state = await self._state.open()
        database, cipher = state.database, state.cipher
        collection = await database.aread(lambda c: find(c, owner, request.collection))
        if collection is None:
            return ()
        if isinstance(request.query, str):
            require_same_embedder(collection, self._embedder.name)
            vector = (await self._embedder.embed_for(process, [request.query]))[0]
        else:
            vector = normalised(request.query)
        if len(vector) != collection.dimensions:
            raise InvalidRequest(
                f"query: got a vector of {len(vector)} numbers; those of collection "
                f"{collection.name!r} have {collection.dimensions}"
            )
        among = None
        if wanted := request.where:
            among = await database.aread(lambda c: where(c, cipher, collection, wanted))
        found = await self._vector_search.nearest(
            collection.index_name, vector, request.k, among=among
        )
        flag = request.with_vectors
        rows = await database.aread(
            lambda c: [
                item(c, cipher, collection, number, score=min(score, 1.0), with_vector=flag)
                for number, score in found
            ]
        )
        return with_all_labels([row for row in rows if row is not None])


def normalised(vector: Vector) -> Vector:
    """Scale a vector to length 1; a zero vector is returned as it is."""
    length = math.sqrt(math.fsum(number * number for number in vector))
    return tuple(number / length for number in vector) if length > 0 else tuple(vector)


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections of one agent. `owner` is another agent that shared its collection."""

    _port: Port

    def put(
        self, collection: str, items: Sequence[CollectionItem], *, owner: str | None = None
    ) -> tuple[str, ...]:
        """Store items; an item replaces the one under its key. Returns the keys."""
        return self._port.call(CollectionPut(collection, items, owner=owner))

    async def aput(
        self, collection: str, items: Sequence[CollectionItem], *, owner: str | None = None
    ) -> tuple[str, ...]:
        """Store items; returns the keys (async form of `put`)."""
        return await self._port.acall(CollectionPut(collection, items, owner=owner))

    def get(
        self, collection: str, keys: Sequence[str], *, owner: str | None = None
    ) -> tuple[CollectionMatch, ...]:
        """Read the items under some keys, in the given order; unknown keys are skipped."""
        return self._port.call(CollectionGet(collection, keys, owner=owner))

    async def aget(
        self, collection: str, keys: Sequence[str], *, owner: str | None = None
    ) -> tuple[CollectionMatch, ...]:
        """Read the items under some keys (async form of `get`)."""
        return await self._port.acall(CollectionGet(collection, keys, owner=owner))

    def delete(
        self, collection: str, keys: Sequence[str] | None = None, *, owner: str | None = None
    ) -> int:
        """Delete the items under some keys, or with None the collection. Returns how many items."""
        return self._port.call(CollectionDelete(collection, keys, owner=owner))

    async def adelete(
        self, collection: str, keys: Sequence[str] | None = None, *, owner: str | None = None
    ) -> int:
        """Delete items or the whole collection; returns how many items (async form of `delete`)."""
        return await self._port.acall(CollectionDelete(collection, keys, owner=owner))

    def search(
        self,
        collection: str,
        query: str | Vector,
        *,
        k: int = 4,
        where: Mapping[str, Any] | None = None,
        with_vectors: bool = False,
        owner: str | None = None,
    ) -> tuple[CollectionMatch, ...]:
        """Find the items that are nearest in meaning to a text, or to a vector, best first.

        Args:
            collection: the name of the collection; an unknown one has no items.
            query: a text, or a vector of the length of the collection's vectors.
            k: the maximum number of items.
            where: only items with these values in their metadata; a list matches any of its
                members.
            with_vectors: also return the items' vectors.
            owner: the agent that shared the collection; None: this agent.
        """
        return self._port.call(
            CollectionSearch(
                collection,
                query,
                k=k,
                where={} if where is None else where,
                with_vectors=with_vectors,
                owner=owner,
            )
        )

    async def asearch(
        self,
        collection: str,
        query: str | Vector,
        *,
        k: int = 4,
        where: Mapping[str, Any] | None = None,
        with_vectors: bool = False,
        owner: str | None = None,
    ) -> tuple[CollectionMatch, ...]:
        """Find the nearest items of a collection (async form of `search`)."""
        return await self._port.acall(
            CollectionSearch(
                collection,
                query,
                k=k,
                where={} if where is None else where,
                with_vectors=with_vectors,
                owner=owner,
            )
        )
