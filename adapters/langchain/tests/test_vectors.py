"""Embeddings and vector stores on the kernel, by LangChain's own suites and beyond them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from aios_core import ApprovalRefused, Budget, BudgetExceeded, Conflict, Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import InvalidRequest, KernelClosed
from aios_core.testing import EventWatcher
from langchain_aios import AIOSEmbeddings, AIOSVectorStore

from .conftest import Boot

# --- LangChain's suites --------------------------------------------------------------------------


class _OnOneKernel:
    """Runs a suite on one kernel."""

    kernel: Kernel

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _kernel(cls) -> Iterator[None]:
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        with Kernel(config, cores=[ScriptedCore("hi")]) as cls.kernel:
            kernel = cls.kernel
            yield
            kernel.check()

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return AIOSEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"kernel": self.kernel}


class TestEmbeddingsUnit(_OnOneKernel, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(_OnOneKernel, EmbeddingsIntegrationTests):
    pass


class TestStoreOfForeignVectors(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, kernel: Kernel) -> AIOSVectorStore:  # type: ignore[override] # no generator
        return AIOSVectorStore(self.get_embeddings(), kernel=kernel)


class TestStoreOfTheKernelsVectors(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, kernel: Kernel) -> AIOSVectorStore:  # type: ignore[override]
        return AIOSVectorStore(kernel=kernel)


# --- embeddings ----------------------------------------------------------------------------------


class TestEmbeddings:
    async def test_all_ways_give_the_same_vector_of_length_one(self, kernel: Kernel) -> None:
        model = AIOSEmbeddings(kernel=kernel)

        one = model.embed_query("pizza")

        assert [one] == model.embed_documents(["pizza"]) == await model.aembed_documents(["pizza"])
        assert one == await model.aembed_query("pizza")
        assert sum(number * number for number in one) == pytest.approx(1.0)

    def test_many_texts_come_back_in_their_order(self, kernel: Kernel) -> None:
        model = AIOSEmbeddings(kernel=kernel)
        texts = [f"number {n}" for n in range(600)]  # of three syscalls

        vectors = model.embed_documents(texts)

        assert len(vectors) == 600
        assert vectors[555] == model.embed_query("number 555")

    def test_an_agent_that_is_named_embeds_and_its_budget_holds(self, kernel: Kernel) -> None:
        agent = kernel.spawn("reader", budget=Budget(calls=1))
        model = AIOSEmbeddings(agent=agent, kernel=kernel)

        model.embed_query("pizza")

        assert agent.accounting.num_embedded == 1
        with pytest.raises(BudgetExceeded):
            model.embed_query("pizza")

    async def test_else_it_is_the_agent_of_the_run_that_asks(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        model = AIOSEmbeddings(kernel=kernel)
        spent: list[int] = []

        async def work(text: str) -> None:
            await model.aembed_query(text)
            model.embed_query(text)
            spent.extend(process.accounting.num_embedded for process in kernel.processes)

        await RunnableLambda(work, name="worker").ainvoke("pizza")

        assert spent == [2]
        (name,) = watch.names().values()
        assert name.startswith("worker-")

    def test_the_runs_config_may_name_it(self, kernel: Kernel) -> None:
        model = AIOSEmbeddings(kernel=kernel)

        RunnableLambda(model.embed_query).invoke(
            "pizza", config={"metadata": {"aios_agent": "ann", "aios_group": "desk"}}
        )

        (ann,) = kernel.processes
        assert (ann.name, ann.group.name, ann.accounting.num_embedded) == ("ann", "desk", 1)


# --- stores --------------------------------------------------------------------------------------

TEXTS = ["rain falls in Oslo", "pizza needs flour", "snow falls in Oslo"]
ABOUT = [{"topic": "weather", "n": 1}, {"topic": "food", "n": 2}, {"topic": "weather", "n": 3}]
Search = Callable[..., Any]


@pytest.fixture
def store(kernel: Kernel) -> AIOSVectorStore:
    made = AIOSVectorStore(kernel=kernel)
    made.add_texts(TEXTS, ABOUT, ids=["rain", "pizza", "snow"])
    return made


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


class TestStore:
    async def test_the_async_half_takes_no_thread_of_the_loop(
        self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "run_in_executor", lambda *_: pytest.fail("a thread was taken"))

        store = await AIOSVectorStore.afrom_texts(TEXTS, None, ABOUT, ids=["a", "b", "c"],
                                                  kernel=kernel)  # fmt: skip
        await store.aadd_documents([Document("fog", id="d")])
        await store.adelete(["a"])

        assert ids(await store.aget_by_ids(["a", "d"])) == ["d"]
        assert len(await store.asimilarity_search("fog")) == 3
        assert len(await store.amax_marginal_relevance_search("fog")) == 3
        assert len(await store.as_retriever().ainvoke("fog")) == 3

    async def test_both_halves_of_every_search_agree(self, store: AIOSVectorStore) -> None:
        query, vector = "does rain fall in Oslo?", store.embeddings.embed_query("flour")
        known = {"k": 2, "filter": {"topic": ["weather", "food"]}}

        for name, asked in (
            ("similarity_search", query),
            ("similarity_search_with_score", query),
            ("similarity_search_with_relevance_scores", query),
            ("similarity_search_by_vector", vector),
            ("max_marginal_relevance_search", query),
            ("max_marginal_relevance_search_by_vector", vector),
        ):
            blocking, awaited = getattr(store, name), getattr(store, f"a{name}")
            assert len(found := blocking(asked, **known)) == 2
            assert found == await awaited(asked, **known)

    def test_the_closest_comes_first_with_text_metadata_and_cosine(
        self, store: AIOSVectorStore
    ) -> None:
        (first, score), (_, second) = store.similarity_search_with_score(TEXTS[0], k=2)

        assert first == Document(id="rain", page_content=TEXTS[0], metadata=ABOUT[0])
        assert score == pytest.approx(1.0)
        assert score > second

    def test_relevance_is_never_below_zero(self, kernel: Kernel) -> None:
        opposed = AIOSVectorStore(kernel=kernel)
        opposed._embedding = Given({"up": [1.0, 0.0], "down": [-1.0, 0.0]})
        opposed.add_texts(["down"])

        assert [score for _, score in opposed.similarity_search_with_score("up")] == [-1.0]
        assert [one for _, one in opposed.similarity_search_with_relevance_scores("up")] == [0.0]

    def test_filters_on_a_value_and_on_several_are_kept_to(self, store: AIOSVectorStore) -> None:
        def found(wanted: dict[str, Any]) -> set[str | None]:
            return set(ids(store.similarity_search("Oslo", k=9, filter=wanted)))

        assert found({"topic": "food"}) == {"pizza"}
        assert found({"n": [1, 2], "topic": "weather"}) == {"rain"}
        assert found({"topic": "sport"}) == set()

    @pytest.mark.parametrize(
        "wanted",
        [lambda _: True, {"n": {"$gt": 1}}, {"$or": [{"n": 1}]}],
        ids=["callable", "$gt", "$or"],
    )
    def test_a_filter_that_there_is_not_is_refused_by_name(
        self, store: AIOSVectorStore, wanted: Any
    ) -> None:
        with pytest.raises(InvalidRequest, match=r"filter: got .*; allowed: a mapping"):
            store.similarity_search("Oslo", filter=wanted)

    def test_an_argument_that_there_is_not_is_refused_by_name(self, store: AIOSVectorStore) -> None:
        with pytest.raises(InvalidRequest, match="'fileter'"):
            store.similarity_search("Oslo", fileter={"n": 1})

    @pytest.mark.parametrize("lambda_mult", [0.0, 0.3, 0.5, 1.0])
    def test_variety_is_chosen_as_langchain_chooses_it(
        self, kernel: Kernel, lambda_mult: float
    ) -> None:
        fake, texts = DeterministicFakeEmbedding(size=8), [f"text {n}" for n in range(12)]
        store = AIOSVectorStore(fake, kernel=kernel)
        store.add_texts(texts, ids=texts)
        closest = [one.page_content for one in store.similarity_search("query", k=9)]

        chosen = store.max_marginal_relevance_search(
            "query", k=4, fetch_k=9, lambda_mult=lambda_mult
        )

        query = np.array(fake.embed_query("query"))
        theirs = maximal_marginal_relevance(query, fake.embed_documents(closest), lambda_mult, k=4)
        assert ids(chosen) == [closest[position] for position in theirs]

    async def test_a_store_is_made_of_texts_or_documents(self, kernel: Kernel) -> None:
        documents = [Document("a kettle", id="k"), Document("a lamp", metadata={"n": 1})]

        one = AIOSVectorStore.from_texts(["a kettle"], AIOSEmbeddings(kernel=kernel), kernel=kernel)
        two = await AIOSVectorStore.afrom_documents(
            documents, AIOSEmbeddings(kernel=kernel), kernel=kernel, collection="two"
        )

        assert [found.page_content for found in one.similarity_search("kettle")] == ["a kettle"]
        assert ids(two.get_by_ids(["k"])) == ["k"]
        assert len(await two.asimilarity_search("lamp")) == 2

    def test_of_texts_of_one_id_the_last_is_kept(self, store: AIOSVectorStore) -> None:
        assert store.add_texts(["old", "new"], ids=["a", "a"]) == ["a", "a"]

        assert [found.page_content for found in store.get_by_ids(["a"])] == ["new"]

    def test_more_texts_than_one_syscall_takes_are_kept_in_several(self, kernel: Kernel) -> None:
        store = AIOSVectorStore(DeterministicFakeEmbedding(size=8), kernel=kernel)
        texts = [f"text {number}" for number in range(2_100)]

        store.add_documents([Document(text, id=text) for text in texts], batch_size=10_000)

        assert len(store.get_by_ids(texts)) == 2_100

    @pytest.mark.parametrize("wrong", [{"ids": ["a"]}, {"metadatas": [{}]}])
    def test_too_few_ids_or_metadatas_are_refused_and_nothing_is_kept(
        self, store: AIOSVectorStore, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidRequest, match="got 1 for 2 texts"):
            store.add_texts(["one", "two"], **wrong)

        assert store.get_by_ids(["a"]) == []

    async def test_a_retriever_finds_by_either_half(self, store: AIOSVectorStore) -> None:
        retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"topic": "food"}})
        various = store.as_retriever(search_type="mmr", search_kwargs={"k": 2})
        sure = store.as_retriever(
            search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99}
        )

        assert ids(retriever.invoke("Oslo")) == ids(await retriever.ainvoke("Oslo")) == ["pizza"]
        assert len(await various.ainvoke("Oslo")) == 2
        assert ids(sure.invoke(TEXTS[2])) == ["snow"]

    def test_langchains_index_keeps_it_in_step_with_its_source(self, kernel: Kernel) -> None:
        store, records = AIOSVectorStore(kernel=kernel), InMemoryRecordManager("docs")
        records.create_schema()
        old = Document("an old line", metadata={"source": "a"})
        new = Document("a new line", metadata={"source": "a"})

        def bring(*documents: Document) -> Any:
            return index(list(documents), records, store, cleanup="incremental",
                         source_id_key="source", key_encoder="sha256")  # fmt: skip

        assert bring(old)["num_added"] == 1
        assert bring(new)["num_deleted"] == 1
        assert [found.page_content for found in store.similarity_search("line")] == ["a new line"]


class Given(Embeddings):
    """Vectors as they were given."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._vectors[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._vectors[text]


# --- owners --------------------------------------------------------------------------------------


class TestOwner:
    def test_another_agents_collection_is_not_seen(
        self, kernel: Kernel, store: AIOSVectorStore
    ) -> None:
        other = AIOSVectorStore(kernel=kernel, agent="other")

        assert other.similarity_search("Oslo") == []
        assert other.get_by_ids(["rain"]) == []
        other.delete(["rain"])
        assert ids(store.get_by_ids(["rain"])) == ["rain"]

    def test_collections_of_one_agent_are_apart(
        self, kernel: Kernel, store: AIOSVectorStore
    ) -> None:
        assert AIOSVectorStore(kernel=kernel, collection="b").similarity_search("Oslo") == []
        assert len(store.similarity_search("Oslo")) == 3

    def test_the_next_store_of_the_same_agent_finds_it_all(
        self, kernel: Kernel, store: AIOSVectorStore
    ) -> None:
        del store

        assert len(AIOSVectorStore(kernel=kernel).similarity_search("Oslo")) == 3

    def test_an_agent_that_is_given_keeps_it_and_pays_for_its_vectors(self, kernel: Kernel) -> None:
        agent = kernel.spawn("librarian")

        AIOSVectorStore(agent=agent).add_texts(TEXTS)

        assert agent.accounting.num_embedded == 3
        assert len(agent.collections.search("langchain", [1.0] + [0.0] * 1023)) == 3

    def test_the_run_that_asks_pays_where_its_embeddings_say_so(self, kernel: Kernel) -> None:
        store = AIOSVectorStore(AIOSEmbeddings(kernel=kernel), kernel=kernel)

        RunnableLambda(store.similarity_search).invoke(
            "Oslo", config={"metadata": {"aios_agent": "ann"}}
        )

        spent = {one.name: one.accounting.num_embedded for one in kernel.processes}
        assert spent == {"ann": 1, "langchain": 0}

    def test_all_is_taken_out_only_if_the_approver_agrees(self, boot: Boot) -> None:
        careful = AIOSVectorStore(
            kernel=boot(access={"approver": "deny", "confirm_own_irreversible": True})
        )
        careful.add_texts(TEXTS)
        with pytest.raises(ApprovalRefused):
            careful.delete()
        assert len(careful.similarity_search("Oslo")) == 3

        free = AIOSVectorStore(
            kernel=boot(access={"approver": "allow", "confirm_own_irreversible": True})
        )
        free.add_texts(TEXTS)
        assert free.delete()
        assert free.similarity_search("Oslo") == []


# --- bad days ------------------------------------------------------------------------------------


async def test_a_closed_kernel_refuses_embeddings_and_searches() -> None:
    with Kernel(cores=[ScriptedCore("hi")]) as kernel:
        pass
    model, store = AIOSEmbeddings(kernel=kernel), AIOSVectorStore(kernel=kernel)

    for refused in (lambda: model.embed_query("hi"), lambda: store.get_by_ids(["a"])):
        with pytest.raises(KernelClosed):
            refused()
    for awaited in (model.aembed_query("hi"), store.asimilarity_search("hi")):
        with pytest.raises(KernelClosed):
            await awaited


def test_another_embeddings_vectors_are_refused_where_they_do_not_fit(
    store: AIOSVectorStore, kernel: Kernel
) -> None:
    short = AIOSVectorStore(DeterministicFakeEmbedding(size=8), kernel=kernel)

    with pytest.raises((Conflict, InvalidRequest)):
        short.add_texts(["hi"])
    with pytest.raises(InvalidRequest, match="a vector of 8 numbers"):
        short.similarity_search("hi")
    assert len(store.similarity_search("Oslo")) == 3


async def test_many_loops_and_threads_share_one_store(store: AIOSVectorStore) -> None:
    def other_loop(number: int) -> list[str]:
        return asyncio.run(store.aadd_texts([f"text {number}"], ids=[f"t{number}"]))

    await asyncio.gather(*(asyncio.to_thread(other_loop, number) for number in range(4)))

    assert len(await store.aget_by_ids([f"t{number}" for number in range(4)])) == 4
