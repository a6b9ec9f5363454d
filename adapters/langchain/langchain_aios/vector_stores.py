"""`AIOSVectorStore`: LangChain's vector store over a collection of the kernel.

    store = AIOSVectorStore(agent="librarian")
    store.add_documents(documents)
    retriever = store.as_retriever(search_kwargs={"k": 3, "filter": {"topic": "weather"}})

Documents are kept with their vectors, durable when `add_documents` returns, and belong to
one agent; another sees them only by grant. A filter names metadata and the value, or
the list of values, that it must have; any other filter is refused by name.
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
    """Documents by meaning. A score is the cosine: 1 for what is closest.

    Args:
        embedding: makes the vectors; one collection holds those of one embedding. None: the
            kernel's embedder, as calls of the same agent.
        collection: keeps stores of one agent apart.
        agent: whose collection it is: a name, or an agent of the kernel.
        kernel: None for the embedded kernel of this process.
        group: of an agent that is spawned by its name.
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
        """What makes the vectors."""
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
        """A store with these texts in it; further arguments are the constructor's."""
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
        """The same on an event loop."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    # --- what is kept -------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int = _BATCH,
        **kwargs: Any,
    ) -> list[str]:
        """Keep texts, in place of those of the same ids; their ids, made where none is given.

        Each batch is kept as a whole or not at all.

        Raises `InvalidRequest` if there are not as many metadatas or ids as texts.
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
        """The same on an event loop."""
        _refuse(kwargs)
        texts = list(texts)
        keys = _keys(texts, metadatas, ids)
        vectors = await self._embedding.aembed_documents(texts) if texts else []
        await self._store.arun(self._put(_items(keys, texts, metadatas, vectors), batch_size))
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Take documents out; ids that are not there are ignored.

        None removes all. It cannot be undone; with `access.confirm_own_irreversible`, a person is
        asked first.
        """
        _refuse(kwargs)
        self._store.run(self._delete(ids))
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """The same on an event loop."""
        _refuse(kwargs)
        await self._store.arun(self._delete(ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids that are there, in this order."""
        return self._store.run(self._get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The same on an event loop."""
        return await self._store.arun(self._get(ids))

    # --- what is found ------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The `k` documents that are closest to a text, the best first.

        Args:
            query: the text.
            k: how many, at most.
            kwargs: `filter`, see the module.

        Raises:
            InvalidRequest: a filter or an argument that there is not.
        """
        return _documents(self.similarity_search_with_score(query, k, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The same on an event loop."""
        return _documents(await self.asimilarity_search_with_score(query, k, **kwargs))

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """The same with their cosines."""
        search = self._search(self._embedding.embed_query(query), k, kwargs)
        return _scored(self._store.run(search))

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """The same on an event loop."""
        search = self._search(await self._embedding.aembed_query(query), k, kwargs)
        return _scored(await self._store.arun(search))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """The `k` documents that are closest to a vector."""
        return _documents(_scored(self._store.run(self._search(embedding, k, kwargs))))

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """The same on an event loop."""
        return _documents(_scored(await self._store.arun(self._search(embedding, k, kwargs))))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Documents that are close to a text and unlike one another.

        Args:
            query: the text.
            k: how many, at most.
            fetch_k: among how many of the closest they are chosen.
            lambda_mult: 1 looks at closeness alone, 0 at variety alone.
            kwargs: `filter`, see the module.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """The same on an event loop."""
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
        """The same for a vector."""
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
        """The same on an event loop."""
        search = self._search(embedding, max(k, fetch_k), kwargs, with_vectors=True)
        return _documents(_scored(_various(await self._store.arun(search), k, lambda_mult)))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """From 0 to 1, as LangChain wants it: the cosine, and 0 for what points away."""
        return lambda cosine: max(0.0, cosine)

    # --- scripts ------------------------------------------------------------------------------

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


# --- between LangChain's words and the kernel's ---------------------------------------------------


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
    """One for each key; of several texts under one key the last is kept."""
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
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) of matches with vectors."""
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
    """A filter as the kernel has it: every key has its value, or one of its values."""
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
