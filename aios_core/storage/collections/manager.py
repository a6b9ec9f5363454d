"""Collections: items under keys, found by meaning; and the handle that agents use.

    agent.collections.put("notes", [CollectionItem("a", "the kettle is in the kitchen")])
    agent.collections.search("notes", "where is the kettle?", k=3)

An item is durable when `put` answers. Vectors are made by the kernel's embedder,
unless they come with the items (a framework's own embeddings); one collection holds
the vectors of one embedder. Labels of what an agent has read stay with what it puts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aios_core.config import RetrievalConfig
from aios_core.errors import InvalidRequest, KernelBug
from aios_core.manager import Port, all_labelled, labelled
from aios_core.permissions import Resource
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder, Vector
from aios_core.retrieval.vector_search import VectorSpaces
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
    require_maker,
    store,
    usage,
    where,
)
from aios_core.syscalls import Request


class CollectionManager:
    """See the module. Belongs to the kernel's loop; the embedder is the kernel's."""

    def __init__(
        self,
        state: StateOpener,
        embedder: BilledEmbedder,
        spaces: VectorSpaces,
        config: RetrievalConfig | None = None,
    ) -> None:
        self._state = state
        self._embedder = embedder
        self._spaces = spaces
        self._max_bytes = (config or RetrievalConfig()).max_collection_bytes
        state.add_migrations(COMPONENT, SCHEMA)

    @property
    def name(self) -> str:
        return "collection"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return (CollectionPut, CollectionGet, CollectionDelete, CollectionSearch)

    async def start(self) -> None:
        """The state opens with the first request."""

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
        """Return whether an owner has a collection of that name, or any."""
        owner, name = resource.owner, resource.name
        if resource.kind != "collection" or owner is None:
            return None
        state = await self._state.opened()
        return not name or await state.database.aread(lambda c: find(c, owner, name)) is not None

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity ever had a collection."""
        state = await self._state.opened()
        return bool(await state.database.aread(lambda c: usage(c, identity)))

    def forget(self, process: AgentProcess) -> None:
        """Nothing lives here for an agent."""

    async def close(self) -> None:
        """The spaces close after this."""

    def check(self) -> None:
        """There is no state here that could break."""

    # --- inside ------------------------------------------------------------------------------

    async def _put(
        self, process: AgentProcess, owner: str, request: CollectionPut
    ) -> tuple[str, ...]:
        items = list(request.items)
        if not items:
            return ()
        given = [entry.vector for entry in items if entry.vector is not None]
        if given and len(given) < len(items):
            raise InvalidRequest("items: some come with vectors and some without")
        texts = [entry.text for entry in items]
        vectors = given or await self._embedder.embed_for(process, texts)
        pairs = list(zip(items, map(normalised, vectors), strict=True))
        state = await self._state.opened()
        made_by = "" if given else self._embedder.name
        labels = frozenset(process.labels)
        collection, came, gone = await state.database.awrite(
            lambda c: store(
                c,
                state.vault,
                owner,
                request.collection,
                pairs,
                made_by=made_by,
                labels=labels,
                max_bytes=self._max_bytes,
            )
        )
        added = list(zip(came, (vector for _, vector in pairs), strict=True))
        await self._spaces.changed(collection.space, added, gone)
        return tuple(entry.key for entry in items)

    async def _get(self, owner: str, request: CollectionGet) -> Any:
        state = await self._state.opened()
        items = await state.database.aread(
            lambda c: get(c, state.vault, owner, request.collection, request.keys)
        )
        values = (item.labels for item in items)  # the keys are the caller's own words
        return labelled(tuple(items), frozenset[str]().union(*values))

    async def _delete(self, owner: str, request: CollectionDelete) -> int:
        state = await self._state.opened()
        collection, gone = await state.database.awrite(
            lambda c: delete(c, owner, request.collection, request.keys)
        )
        if collection is not None:
            await self._spaces.changed(collection.space, (), gone)
        return len(gone)

    async def _search(self, process: AgentProcess, owner: str, request: CollectionSearch) -> Any:
        state = await self._state.opened()
        database, vault = state.database, state.vault
        collection = await database.aread(lambda c: find(c, owner, request.collection))
        if collection is None:
            return ()
        if isinstance(request.query, str):
            require_maker(collection, self._embedder.name)
            vector = (await self._embedder.embed_for(process, [request.query]))[0]
        else:
            vector = normalised(request.query)
        if len(vector) != collection.dimensions:
            raise InvalidRequest(
                f"query: a vector of {len(vector)} numbers; those of collection "
                f"{collection.name!r} have {collection.dimensions}"
            )
        among = None
        if wanted := request.where:
            among = await database.aread(lambda c: where(c, vault, collection, wanted))
        found = await self._spaces.nearest(collection.space, vector, request.k, among=among)
        flag = request.with_vectors
        rows = await database.aread(
            lambda c: [
                item(c, vault, collection, number, score=min(score, 1.0), with_vector=flag)
                for number, score in found
            ]
        )
        return all_labelled([row for row in rows if row is not None])


def normalised(vector: Vector) -> Vector:
    """The vector with length 1; zeros stay."""
    length = math.sqrt(math.fsum(number * number for number in vector))
    return tuple(number / length for number in vector) if length > 0 else tuple(vector)


@dataclass(frozen=True, slots=True)
class Collections:
    """One agent's collections. `owner` names another agent's, which takes a grant."""

    _port: Port

    def put(
        self, collection: str, items: Sequence[CollectionItem], *, owner: str | None = None
    ) -> tuple[str, ...]:
        """Put items in, in place of those of the same keys; the keys."""
        return self._port.call(CollectionPut(collection, items, owner=owner))

    async def aput(
        self, collection: str, items: Sequence[CollectionItem], *, owner: str | None = None
    ) -> tuple[str, ...]:
        """The same, awaited."""
        return await self._port.acall(CollectionPut(collection, items, owner=owner))

    def get(
        self, collection: str, keys: Sequence[str], *, owner: str | None = None
    ) -> tuple[CollectionMatch, ...]:
        """The items of some keys, in their order; those that are not there are left out."""
        return self._port.call(CollectionGet(collection, keys, owner=owner))

    async def aget(
        self, collection: str, keys: Sequence[str], *, owner: str | None = None
    ) -> tuple[CollectionMatch, ...]:
        """The same, awaited."""
        return await self._port.acall(CollectionGet(collection, keys, owner=owner))

    def delete(
        self, collection: str, keys: Sequence[str] | None = None, *, owner: str | None = None
    ) -> int:
        """Take the items of some keys out, or with None the whole collection; how many went."""
        return self._port.call(CollectionDelete(collection, keys, owner=owner))

    async def adelete(
        self, collection: str, keys: Sequence[str] | None = None, *, owner: str | None = None
    ) -> int:
        """The same, awaited."""
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
        """The `k` items that are closest to a text or a vector; see `CollectionSearch`."""
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
        """The same, awaited."""
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
