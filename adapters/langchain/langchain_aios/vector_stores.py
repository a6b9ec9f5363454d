"""`AIOSVectorStore`: LangChain's vector store over a collection of the kernel.

    store = AIOSVectorStore(agent="librarian")
    store.add_documents(documents)
    retriever = store.as_retriever(search_kwargs={"k": 3, "filter": {"topic": "weather"}})

Documents are stored with their vectors, durable when `add_documents` returns, and belong to
one agent; other agents see them only by grant. A filter maps metadata to the required value, or
to a list of allowed values; any other filter is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final, Self
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, CollectionItem, Kernel
from aios_core.errors import InvalidRequest
from aios_core.storage import CollectionMatch
from langchain_aios.callers import user_of_store
from langchain_aios.embeddings import AIOSEmbeddings

_BATCH: Final = 1_000  # documents of one syscall, at most

Scored = list[tuple[Document, float]]


class AIOSVectorStore(VectorStore):
    """A store of documents that are found by meaning. A score is the cosine: 1 is closest.

    Args:
        embedding: makes the vectors; one collection holds those of one embedding. None: the
            kernel's embedder, as calls of the owner.
        collection: separates several stores of one agent.
        agent: the owner of the collection, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
    """

    def __init__(
        self,
        embedding: Embeddings | None = None,
        *,
        collection: str = "langchain",
        agent: str | Agent = "langchain",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        self._embedding = embedding or AIOSEmbeddings(agent=agent, kernel=kernel, group=group)
        self._collection = collection
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings that make the vectors."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store with these texts; further arguments are the constructor's."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store (async form of `from_texts`)."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    # --- documents ----------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = _BATCH,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts, replacing those with the same ids. Returns the ids, generated if not given.

        Each batch is stored as a whole or not at all.

        Raises:
            InvalidRequest: the number of metadatas or ids differs from the number of texts.
        """
        _refuse(kwargs)
        texts = list(texts)
        keys = _keys(texts, metadatas, ids)
        vectors = self._embedding.embed_documents(texts) if texts else []
        self._store.run(self._put(_items(keys, texts, metadatas, vectors), batch_size))
        return keys

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = _BATCH,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts (async form of `add_texts`)."""
        _refuse(kwargs)
        texts = list(texts)
        keys = _keys(texts, metadatas, ids)
        vectors = await self._embedding.aembed_documents(texts) if texts else []
        await self._store.arun(self._put(_items(keys, texts, metadatas, vectors), batch_size))
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents; unknown ids are ignored.

        None deletes all. This cannot be undone; with `access.confirm_own_irreversible`, a person is
        asked first.
        """
        _refuse(kwargs)
        self._store.run(self._delete(ids))
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents; unknown ids are ignored (async form of `delete`)."""
        _refuse(kwargs)
        await self._store.arun(self._delete(ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in this order, without unknown ids."""
        return self._store.run(self._get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents (async form of `get_by_ids`)."""
        return await self._store.arun(self._get(ids))

    # --- search -------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` documents that are closest to a text, the best first.

        Args:
            query: the text.
            k: how many documents, at most.
            kwargs: `filter`: a mapping of metadata to a value or a list of values.

        Raises:
            InvalidRequest: a filter or argument is not supported.
        """
        return _documents(self.similarity_search_with_score(query, k, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` documents (async form of `similarity_search`)."""
        return _documents(await self.asimilarity_search_with_score(query, k, **kwargs))

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Return the `k` documents that are closest to a text, with their cosines."""
        search = self._search(self._embedding.embed_query(query), k, kwargs)
        return _scored(self._store.run(search))

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Return the `k` documents (async form of `similarity_search_with_score`)."""
        search = self._search(await self._embedding.aembed_query(query), k, kwargs)
        return _scored(await self._store.arun(search))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` documents that are closest to a vector."""
        return _documents(_scored(self._store.run(self._search(embedding, k, kwargs))))

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the `k` documents (async form of `similarity_search_by_vector`)."""
        return _documents(_scored(await self._store.arun(self._search(embedding, k, kwargs))))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents that are close to a text and different from one another.

        Args:
            query: the text.
            k: how many documents, at most.
            fetch_k: how many of the closest documents they are chosen from.
            lambda_mult: 1 weighs only closeness, 0 only variety.
            kwargs: `filter`: a mapping of metadata to a value or a list of values.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents (async form of `max_marginal_relevance_search`)."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents that are close to a vector and different from one another."""
        search = self._search(embedding, max(k, fetch_k), kwargs, with_vectors=True)
        return _documents(_scored(_various(self._store.run(search), k, lambda_mult)))

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents (async form of `max_marginal_relevance_search_by_vector`)."""
        search = self._search(embedding, max(k, fetch_k), kwargs, with_vectors=True)
        return _documents(_scored(_various(await self._store.arun(search), k, lambda_mult)))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return the function that maps a cosine to a score from 0 to 1: negative ones to 0."""
        return lambda cosine: max(0.0, cosine)

    # --- programs -----------------------------------------------------------------------------

    def _put(self, items: Sequence[CollectionItem], batch_size: int) -> StoreProgram[None]:
        size = max(1, min(batch_size, _BATCH))
        for start in range(0, len(items), size):
            yield StoreOp.collections("put", self._collection, items[start : start + size])

    def _delete(self, ids: Sequence[str] | None) -> StoreProgram[None]:
        if ids is None or ids:
            yield StoreOp.collections("delete", self._collection, ids)

    def _get(self, ids: Sequence[str]) -> StoreProgram[list[Document]]:
        found = yield StoreOp.collections("get", self._collection, ids)
        return [_document(match) for match in found]

    def _search(
        self,
        vector: Sequence[float],
        k: int,
        said: dict[str, Any],
        *,
        with_vectors: bool = False,
    ) -> StoreProgram[Sequence[CollectionMatch]]:
        where = _where(said.pop("filter", None))
        _refuse(said)
        found: Sequence[CollectionMatch] = yield StoreOp.collections(
            "search", self._collection, vector, k=k, where=where, with_vectors=with_vectors
        )
        return found


# --- translation ----------------------------------------------------------------------------------


def _keys(
    texts: Sequence[str], metadatas: Sequence[Any] | None, ids: Sequence[str | None] | None
) -> list[str]:
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given and len(given) != len(texts):
            raise InvalidRequest(f"{name}: got {len(given)} for {len(texts)} texts")
    return [key or str(uuid4()) for key in ids or repeat(None, len(texts))]


def _items(
    keys: Sequence[str],
    texts: Sequence[str],
    metadatas: Sequence[Mapping[str, Any]] | None,
    vectors: Sequence[Sequence[float]],
) -> list[CollectionItem]:
    """Return one item for each key; the last of several texts under one key wins."""
    described = metadatas or [{} for _ in texts]
    items = map(CollectionItem, keys, texts, described, vectors)
    return list({item.key: item for item in items}.values())


def _document(match: CollectionMatch) -> Document:
    return Document(id=match.key, page_content=match.text, metadata=dict(match.metadata))


def _scored(matches: Iterable[CollectionMatch]) -> Scored:
    return [(_document(match), match.score) for match in matches]


def _documents(scored: Scored) -> list[Document]:
    return [document for document, _ in scored]


def _various(
    matches: Sequence[CollectionMatch], k: int, lambda_mult: float
) -> Iterator[CollectionMatch]:
    """Select by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""
    left, nearest = list(matches), dict[str, float]()  # the cosine with the closest that is chosen
    for _ in range(min(k, len(left))):
        best = max(
            left,
            key=lambda m: lambda_mult * m.score - (1 - lambda_mult) * nearest.get(m.key, 0.0),
        )
        yield best
        left.remove(best)
        for match in left:
            nearest[match.key] = max(nearest.get(match.key, -1.0), _dot(match.vector, best.vector))


def _dot(one: Sequence[float] | None, other: Sequence[float] | None) -> float:
    return sum(a * b for a, b in zip(one or (), other or (), strict=True))


def _where(wanted: Any) -> dict[str, Any]:
    """Translate a filter: every key must have its value, or one of its values."""
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping) or any(
        str(key).startswith("$") or isinstance(value, Mapping) for key, value in wanted.items()
    ):
        raise InvalidRequest(
            f"filter: got {wanted!r:.200}; allowed: a mapping of metadata to a value, or to a list "
            "of values"
        )
    return dict(wanted)


def _refuse(rest: Mapping[str, Any]) -> None:
    if rest:
        raise InvalidRequest(f"arguments {sorted(rest)}: not known to this store")
