"""`AIOSVectorStore`: LlamaIndex's vector store over a collection of the kernel.

    index = VectorStoreIndex.from_documents(
        documents, storage_context=StorageContext.from_defaults(vector_store=AIOSVectorStore()),
        embed_model=AIOSEmbedding(),
    )

Nodes are stored with their vectors, durable when `add` returns, and belong to one agent.
Filters on equality and membership are supported; any other filter is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, CollectionItem, Kernel
from aios_core.errors import InvalidRequest
from llama_index_aios.callers import user_of_store

_BATCH: Final = 1_000
_EQUAL: Final = (FilterOperator.EQ, FilterOperator.IN)


class AIOSVectorStore(BasePydanticVectorStore):
    """A store of nodes that are found by meaning.

    Args:
        collection: separates several stores of one agent.
        agent: the owner of the collection, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
    """

    stores_text: bool = True
    collection: str = "llamaindex"

    _store: AgentStore = PrivateAttr()

    def __init__(
        self,
        collection: str = "llamaindex",
        *,
        agent: str | Agent = "llamaindex",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__(stores_text=True, collection=collection)  # type: ignore[call-arg]
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in LlamaIndex's serialized objects."""
        return "AIOSVectorStore"

    @property
    def client(self) -> AgentStore:
        """The agent's store, by which this store reaches the kernel."""
        return self._store

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes that have vectors. Returns their ids."""
        del kwargs
        return self._store.run(self._add(nodes))

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes that have vectors, and return their ids (async form of `add`)."""
        del kwargs
        return await self._store.arun(self._add(nodes))

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return the nodes with these ids, without unknown ids."""
        return self._store.run(self._get(node_ids, filters))

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return the nodes with these ids (async form of `get_nodes`)."""
        return await self._store.arun(self._get(node_ids, filters))

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        del delete_kwargs
        self._store.run(self._delete_document(ref_doc_id))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document (async form of `delete`)."""
        del delete_kwargs
        await self._store.arun(self._delete_document(ref_doc_id))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id."""
        del delete_kwargs
        self._store.run(self._delete_nodes(node_ids, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id (async form of `delete_nodes`)."""
        del delete_kwargs
        await self._store.arun(self._delete_nodes(node_ids, filters))

    def clear(self) -> None:
        """Delete all nodes."""
        self._store.run(self._clear())

    async def aclear(self) -> None:
        """Delete all nodes (async form of `clear`)."""
        await self._store.arun(self._clear())

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes that are closest to a vector.

        Raises:
            InvalidRequest: the mode or a filter is not supported.
        """
        del kwargs
        return self._store.run(self._query(query))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes that are closest to a vector (async form of `query`)."""
        del kwargs
        return await self._store.arun(self._query(query))

    # --- programs -----------------------------------------------------------------------------

    def _add(self, nodes: Sequence[BaseNode]) -> StoreProgram[list[str]]:
        for start in range(0, len(nodes), _BATCH):
            items = [_item(node) for node in nodes[start : start + _BATCH]]
            yield StoreOp.collections("put", self.collection, items)
            yield StoreOp.kv(self._documents, "put", _references(nodes[start : start + _BATCH]))
        return [node.node_id for node in nodes]

    def _get(
        self, node_ids: list[str] | None, filters: MetadataFilters | None
    ) -> StoreProgram[list[BaseNode]]:
        if filters is not None or node_ids is None:
            raise InvalidRequest("get_nodes: takes node_ids, and no filters")
        found = yield StoreOp.collections("get", self.collection, node_ids)
        return [_node(match) for match in found]

    def _delete_document(self, ref_doc_id: str) -> StoreProgram[None]:
        prefix = f"{json.dumps(ref_doc_id)}/"
        entries = yield StoreOp.kv(self._documents, "list", prefix, with_values=False)
        keys = [entry.key for entry in entries]
        if keys:
            ids = [key.removeprefix(prefix) for key in keys]
            yield StoreOp.collections("delete", self.collection, ids)
            yield StoreOp.kv(self._documents, "delete", *keys)

    def _delete_nodes(
        self, node_ids: list[str] | None, filters: MetadataFilters | None
    ) -> StoreProgram[None]:
        if filters is not None:
            raise InvalidRequest("delete_nodes: takes node_ids, and no filters")
        if node_ids:
            yield StoreOp.collections("delete", self.collection, node_ids)

    def _clear(self) -> StoreProgram[None]:
        yield StoreOp.collections("delete", self.collection)
        yield StoreOp.kv(self._documents, "clear")

    def _query(self, query: VectorStoreQuery) -> StoreProgram[VectorStoreQueryResult]:
        if query.mode is not VectorStoreQueryMode.DEFAULT or query.query_embedding is None:
            raise InvalidRequest(f"mode: got {query.mode!r}; allowed: 'default', with a vector")
        where = _where(query.filters)
        if query.doc_ids:
            where["ref_doc_id"] = list(query.doc_ids)
        wanted = set(query.node_ids or ())
        k = query.similarity_top_k
        most = 10 * k if wanted else k
        vector = query.query_embedding
        found = yield StoreOp.collections("search", self.collection, vector, k=most, where=where)
        matches = [match for match in found if not wanted or match.key in wanted][:k]
        return VectorStoreQueryResult(
            nodes=[_node(match) for match in matches],
            similarities=[match.score for match in matches],
            ids=[match.key for match in matches],
        )

    @property
    def _documents(self) -> str:
        """The namespace that maps nodes to their documents."""
        return f"llamaindex/{self.collection}/documents"


def _item(node: BaseNode) -> CollectionItem:
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return CollectionItem(node.node_id, text, metadata, node.get_embedding())


def _node(match: Any) -> BaseNode:
    node = metadata_dict_to_node(dict(match.metadata))
    node.set_content(match.text)
    return node


def _references(nodes: Sequence[BaseNode]) -> dict[str, str]:
    return {f"{json.dumps(node.ref_doc_id)}/{node.node_id}": "" for node in nodes}


def _where(filters: MetadataFilters | None) -> dict[str, Any]:
    """Translate filters: every key must have its value, or one of its values."""
    where: dict[str, Any] = {}
    for one in filters.filters if filters else ():
        if (
            not isinstance(one, MetadataFilter)
            or one.operator not in _EQUAL
            or (filters and filters.condition is not FilterCondition.AND)
        ):
            raise InvalidRequest(f"filter: got {one!r}; allowed: '==' and 'in', joined by 'and'")
        where[one.key] = one.value
    return where
