"""Histories, stores and caches in agents' memory, by LangChain's own suites where there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_tests.integration_tests.base_store import BaseStoreAsyncTests, BaseStoreSyncTests
from langchain_tests.integration_tests.cache import AsyncCacheTestSuite, SyncCacheTestSuite

from aios_core import InvalidRequest, Kernel, QuotaExceeded
from aios_core import tool as aios_tool
from langchain_aios import (
    AIOSCache,
    AIOSChatMessageHistory,
    AIOSGraphStore,
    AIOSStore,
    ChatAIOS,
)
from langchain_aios.callers import agent_ref

from .conftest import Boot

CALLED = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}])
TALK = [HumanMessage("hi"), CALLED, ToolMessage("2", tool_call_id="c1"), AIMessage("It is 2.")]


class TestStoreSync(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, kernel: Kernel) -> AIOSStore:  # type: ignore[override]
        return AIOSStore(kernel=kernel)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"one", b"two", b"three"


class TestStoreAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, kernel: Kernel) -> AIOSStore:  # type: ignore[override]
        return AIOSStore(kernel=kernel)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"one", b"two", b"three"


class TestCacheSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, kernel: Kernel) -> AIOSCache:
        return AIOSCache(kernel=kernel)


class TestCacheAsync(AsyncCacheTestSuite):
    @pytest.fixture
    def cache(self, kernel: Kernel) -> AIOSCache:  # type: ignore[override]
        return AIOSCache(kernel=kernel)


class TestCache:
    def test_an_answer_that_is_known_costs_no_syscall(self, kernel: Kernel) -> None:
        llm = ChatAIOS(kernel=kernel, cache=AIOSCache(kernel=kernel), agent="asker")

        first, second = llm.invoke("hi"), llm.invoke("hi")

        (core,) = kernel.pool
        assert len(core.requests) == 1  # type: ignore[attr-defined]
        assert first.content == second.content


@pytest.fixture
def history(kernel: Kernel) -> AIOSChatMessageHistory:
    return AIOSChatMessageHistory("42", kernel=kernel)


class TestHistory:
    def test_messages_come_back_as_they_were(self, history: AIOSChatMessageHistory) -> None:
        history.add_messages(TALK)

        assert history.messages == TALK

    async def test_both_halves_are_one_history(self, history: AIOSChatMessageHistory) -> None:
        await history.aadd_messages(TALK[:2])
        history.add_messages(TALK[2:])

        assert await history.aget_messages() == TALK
        await history.aclear()
        assert history.messages == []

    def test_sessions_are_apart(self, kernel: Kernel, history: AIOSChatMessageHistory) -> None:
        history.add_user_message("hi")

        assert AIOSChatMessageHistory("43", kernel=kernel).messages == []

    def test_all_messages_can_be_replaced(self, history: AIOSChatMessageHistory) -> None:
        history.add_messages(TALK)
        history.messages = TALK[:1]

        assert history.messages == TALK[:1]

    def test_agents_do_not_see_one_anothers(
        self, kernel: Kernel, history: AIOSChatMessageHistory
    ) -> None:
        history.add_user_message("a secret")

        assert AIOSChatMessageHistory("42", kernel=kernel, agent="other").messages == []

    def test_a_full_memory_refuses_and_keeps_what_it_has(self, boot: Boot) -> None:
        kernel = boot(memory={"quota_bytes": 2_000})
        history = AIOSChatMessageHistory("1", kernel=kernel)
        history.add_user_message("kept")

        with pytest.raises(QuotaExceeded, match="of 2,000"):
            history.add_user_message("x" * 5_000)
        assert [message.content for message in history.messages] == ["kept"]


@pytest.fixture(params=["sync", "async"])
def half(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kernel: Kernel) -> Iterator[AIOSGraphStore]:
    return AIOSGraphStore(kernel=kernel, index=["text"])


class TestGraphStore:
    async def test_an_item_comes_back_with_its_times(self, store: AIOSGraphStore) -> None:
        store.put(("users", "ann"), "food", {"text": "likes pizza"})

        item = await store.aget(("users", "ann"), "food")

        assert item is not None
        assert (item.value, item.key, item.namespace) == (
            {"text": "likes pizza"},
            "food",
            ("users", "ann"),
        )
        assert item.created_at <= item.updated_at

    def test_the_time_of_making_stays_when_an_item_changes(self, store: AIOSGraphStore) -> None:
        store.put(("a",), "k", {"n": 1})
        first = store.get(("a",), "k")
        store.put(("a",), "k", {"n": 2})
        second = store.get(("a",), "k")

        assert first is not None
        assert second is not None
        assert (second.value, second.created_at) == ({"n": 2}, first.created_at)

    def test_a_deleted_item_is_gone(self, store: AIOSGraphStore) -> None:
        store.put(("a",), "k", {"n": 1})
        store.delete(("a",), "k")

        assert store.get(("a",), "k") is None

    def test_a_search_stays_within_its_namespace(self, store: AIOSGraphStore) -> None:
        for space in (("a",), ("a", "b"), ("ab",), ("a/b",)):
            store.put(space, "k", {"n": 1})

        assert {item.namespace for item in store.search(("a",))} == {("a",), ("a", "b")}
        assert {item.namespace for item in store.search(("a/b",))} == {("a/b",)}

    @pytest.mark.parametrize(
        ("wanted", "keys"),
        [
            ({"n": 2}, ["k2"]),
            ({"n": {"$gt": 1}}, ["k2", "k3"]),
            ({"n": {"$gte": 1, "$lt": 3}}, ["k1", "k2"]),
            ({"n": {"$ne": 2}}, ["k1", "k3"]),
            ({"deep": {"x": 1}}, ["k1"]),
        ],
    )
    def test_filters(self, store: AIOSGraphStore, wanted: dict[str, Any], keys: list[str]) -> None:
        for n in (1, 2, 3):
            store.put(("a",), f"k{n}", {"n": n, "deep": {"x": n}})

        assert [item.key for item in store.search(("a",), filter=wanted)] == keys

    async def test_a_query_ranks_by_meaning(self, store: AIOSGraphStore) -> None:
        await store.aput(("a",), "1", {"text": "the weather in Oslo is cold"})
        await store.aput(("a",), "2", {"text": "pizza with mushrooms"})

        found = await store.asearch(("a",), query="mushroom pizza", limit=1)

        assert [item.key for item in found] == ["2"]
        assert found[0].score is not None

    def test_namespaces_are_listed_by_condition_and_depth(self, store: AIOSGraphStore) -> None:
        for space in (("a", "x"), ("a", "y", "z"), ("b", "x")):
            store.put(space, "k", {"n": 1})

        assert store.list_namespaces(prefix=("a",)) == [("a", "x"), ("a", "y", "z")]
        assert store.list_namespaces(suffix=("x",)) == [("a", "x"), ("b", "x")]
        assert store.list_namespaces(max_depth=1) == [("a",), ("b",)]

    def test_an_item_expires(self, store: AIOSGraphStore) -> None:
        store.put(("a",), "gone", {"n": 1}, ttl=1e-9)
        store.put(("a",), "there", {"n": 1}, ttl=60)

        assert store.get(("a",), "gone", refresh_ttl=False) is None
        assert store.get(("a",), "there") is not None


@pytest.mark.parametrize(
    "value",
    [
        "text", b"bytes", "\0json:[]", {"a": [1, None, "b"]}, ["x"], 7, 1.5, True,
        Document("text", id="1", metadata={"page": 3}),
    ],
    ids=repr,
)  # fmt: skip
def test_a_store_gives_back_what_it_was_given(kernel: Kernel, value: Any) -> None:
    store = AIOSStore(kernel=kernel)

    store.mset([("key", value)])

    (found,) = store.mget(["key"])
    assert (found, type(found)) == (value, type(value))


class Page(Document):
    """A document class of a user."""

    number: int = 0


@pytest.mark.parametrize(
    "value", [object(), {1: "a"}, (1, 2), float("nan"), {"a": object()}, Page("text", number=1)]
)
def test_a_store_refuses_what_it_could_not_give_back(kernel: Kernel, value: Any) -> None:
    store = AIOSStore(kernel=kernel)

    with pytest.raises(InvalidRequest, match="value of 'key'"):
        store.mset([("other", "x"), ("key", value)])
    assert list(store.yield_keys()) == []


# --- who uses a store -----------------------------------------------------------------------------


def labels_after(kernel: Kernel, thread: str, step: Any, *, reads_web: bool = False) -> set[str]:
    """Return the labels that the agent of a run has after one step of the run."""

    @aios_tool(read_only=True, trusted=False)
    def web() -> str:
        """A page."""
        return "page"

    def work(_: Any) -> set[str]:
        if reads_web:
            with agent_ref(kernel=kernel).use() as agent:
                agent.tools.offer(web)
                agent.tools.run("web")
        step()
        with agent_ref(kernel=kernel).use() as agent:
            return set(agent._process.labels)

    config: RunnableConfig = {"configurable": {"thread_id": thread}}
    labels: set[str] = RunnableLambda(work).invoke(None, config)
    return labels


def test_what_a_run_puts_into_a_store_marks_the_run_that_gets_it(kernel: Kernel) -> None:
    store, history = AIOSGraphStore(kernel=kernel), AIOSChatMessageHistory("1", kernel=kernel)

    def put() -> None:
        store.put(("notes",), "page", {"text": "read"})
        history.add_user_message("read")

    labels_after(kernel, "writer", put, reads_web=True)

    assert labels_after(kernel, "idle", lambda: None) == set()
    assert labels_after(kernel, "own", lambda: store.put(("mine",), "x", {})) == set()
    for get in (lambda: store.get(("notes",), "page"), lambda: history.messages):
        assert labels_after(kernel, "reader", get) == {"tool:web"}
