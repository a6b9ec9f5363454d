"""`AIOSGraphStore` answers as LangGraph's own store in memory does, with one name changed."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import math
import pathlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langgraph.store.base import BaseStore, GetOp, IndexConfig, ListNamespacesOp, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from aios_core import InvalidRequest, Kernel
from langchain_aios import AIOSGraphStore

from .conftest import Boot, WallClock

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class LetterEmbeddings(Embeddings):
    """Embeds a text as the counts of its letters, and counts its own calls."""

    def __init__(self) -> None:
        self.num_texts = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.num_texts += len(texts)
        return [letters(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return letters(text)


def letters(text: str) -> list[float]:
    return [float(text.lower().count(letter)) for letter in LETTERS]


def embed_all(texts: Sequence[str]) -> list[list[float]]:
    return [letters(text) for text in texts]


async def aembed_all(texts: Sequence[str]) -> list[list[float]]:
    return [letters(text) for text in texts]


WAYS = {"class": LetterEmbeddings, "function": lambda: embed_all, "coroutine": lambda: aembed_all}

Do = Callable[[BaseStore, Sequence[Any]], Any]


@pytest.fixture(params=["sync", "async"])
def do(request: pytest.FixtureRequest) -> Do:
    """Carry out operations in one of the two halves."""
    if request.param == "sync":
        return lambda store, ops: store.batch(ops)
    return asynchronously


def asynchronously(store: BaseStore, ops: Sequence[Any]) -> Any:
    return asyncio.run(store.abatch(ops))


def put(key: str, value: dict[str, Any], namespace: tuple[str, ...] = ("a",), **more: Any) -> PutOp:
    return PutOp(namespace, key, value, **more)


def search(namespace: tuple[str, ...] = (), **more: Any) -> SearchOp:
    return SearchOp(namespace, **more)


def index_of(embed: Any, **more: Any) -> IndexConfig:
    return IndexConfig(dims=26, embed=embed, **more)


def both(kernel: Kernel, index: IndexConfig | None = None) -> tuple[BaseStore, BaseStore]:
    return InMemoryStore(index=index), AIOSGraphStore(kernel=kernel, index=index)


def told(results: Any) -> Any:
    """Return the answer of an operation without times, and with rounded scores."""
    if not isinstance(results, list):
        return results and (results.namespace, results.key, results.value)
    return [
        (*told(one), None if one.score is None else round(one.score, 9))
        if hasattr(one, "score")
        else one
        for one in results
    ]


def require_equal(do: Do, stores: tuple[BaseStore, BaseStore], ops: Sequence[Any]) -> None:
    reference, ours = (do(store, ops) for store in stores)
    assert [told(one) for one in ours] == [told(one) for one in reference]


# --- the index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"fields": ["$"]},
        {"fields": ["text"]},
        {"fields": ["text", "deep.note", "parts[*].name"]},
        {"fields": None},
    ],
    ids=str,
)
def test_langgraphs_index_ranks_as_it_does_there(
    kernel: Kernel, do: Do, way: str, more: dict[str, Any]
) -> None:
    if way == "coroutine":  # there, too, only the asynchronous half can ask it
        do = asynchronously
    stores = both(kernel, index_of(WAYS[way](), **more))
    ops = [
        put("1", {"text": "zebra zoo", "deep": {"note": "apple"}, "parts": [{"name": "fig"}]}),
        put("2", {"text": "apple pie", "deep": {"note": "zzz"}, "parts": []}, ("a", "b")),
        put("3", {"text": "nothing"}, index=False),
        put("4", {"text": "banana", "other": "zebra"}, index=["other"]),
        put("5", {"text": "quartz"}, ("c",), index=["text"]),
    ]
    for op in ops:
        require_equal(do, stores, [op])

    for query in ("zebra", "apple", "fig"):
        require_equal(do, stores, [search(query=query), search(("a",), query=query, limit=2)])
        require_equal(do, stores, [search(query=query, filter={"text": "banana"})])


def test_an_embedder_is_asked_for_what_is_to_be_embedded_and_no_more(kernel: Kernel) -> None:
    embeddings = LetterEmbeddings()
    store = AIOSGraphStore(kernel=kernel, index=index_of(embeddings, fields=["text"]))

    store.put(("a",), "1", {"text": "one", "other": "x"})
    store.put(("a",), "2", {"text": "two"}, index=False)
    store.put(("a",), "3", {"text": "three", "other": "x"}, index=["text", "other"])

    assert embeddings.num_texts == 3


def test_without_an_embedder_the_kernels_one_makes_the_vectors(kernel: Kernel) -> None:
    store = AIOSGraphStore(kernel=kernel, index={"fields": ["text"]})  # type: ignore[typeddict-item]
    store.put(("a",), "1", {"text": "the weather in Oslo is cold"})
    store.put(("a",), "2", {"text": "pizza with mushrooms"})

    assert [item.key for item in store.search(("a",), query="mushroom pizza")] == ["2", "1"]


def test_other_dims_than_the_vectors_have_are_said_once(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    index = IndexConfig(dims=1536, embed=LetterEmbeddings())
    store = AIOSGraphStore("of other dims", kernel=kernel, index=index)

    for key in ("1", "2"):
        store.put(("a",), key, {"text": "x"})

    assert caplog.text.count("dims is 1536, but the embedder returned vectors of 26 numbers") == 1


def test_a_query_without_an_index_ranks_nothing(kernel: Kernel, do: Do) -> None:
    stores = both(kernel)
    for op in (put("2", {"n": 1}), put("1", {"n": 1}), search(query="x")):
        require_equal(do, stores, [op])


def test_a_date_can_be_embedded(kernel: Kernel) -> None:
    store = AIOSGraphStore(kernel=kernel, index=index_of(LetterEmbeddings()))

    store.put(("a",), "1", {"when": dt.date(2026, 1, 1), "text": "zebra"})

    assert store.search(("a",), query="zebra")[0].score


# --- order ---------------------------------------------------------------------------------------


def test_items_are_found_in_the_order_in_which_they_came(kernel: Kernel, do: Do) -> None:
    stores = both(kernel)
    steps = [
        *(put(f"{key}", {"n": key}, (space,)) for space in "zam" for key in (3, 1, 2)),
        put("3", {"n": 30}, ("a",)),
        PutOp(("z",), "1", None),
        put("1", {"n": 10}, ("z",)),
        put("9", {"n": 9}, ("z", "deeper")),
    ]
    for op in steps:
        require_equal(do, stores, [op])

    require_equal(do, stores, [search(limit=100), search(("z",)), search(limit=3, offset=2)])
    require_equal(do, stores, [ListNamespacesOp(), GetOp(("a",), "3"), GetOp(("a",), "no")])


@pytest.mark.parametrize(
    "wanted",
    [
        {"n": 2},
        {"n": {"$gt": 1}},
        {"n": {"$gte": "2"}},
        {"tags": ["x", "y"]},
        {"tags": ("x", "y")},
        {"deep": {"n": {"$lt": 3}}},
        {"deep": {"n": {"$ne": 1}}, "n": {"$eq": 2}},
    ],
    ids=str,
)
def test_filters_are_langgraphs(kernel: Kernel, do: Do, wanted: dict[str, Any]) -> None:
    stores = both(kernel)
    for n in (3, 1, 2):
        require_equal(do, stores, [put(f"{n}", {"n": n, "tags": ["x", "y"][:n], "deep": {"n": n}})])

    require_equal(do, stores, [search(filter=wanted)])


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        (1, (2, [3])), {1: "a", None: "b", (1, 2): "c"}, {1, 2}, frozenset({(1, 2)}), b"\0bytes",
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC), dt.date(2026, 1, 2),
        dt.timedelta(1, 2, 3), uuid.UUID(int=7), decimal.Decimal("1.10"), 2**70, -0.0,
        math.inf, pathlib.Path("/a/b"), "half \ud800 a pair", {"\0": "tuple", "value": 1},
        [{"deep": ({"x": b"y"},)}], HumanMessage("hi", id="1"), None, True, "", {}, [],
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_comes_back_of_its_type(kernel: Kernel, do: Do, value: Any) -> None:
    store = AIOSGraphStore(kernel=kernel)

    do(store, [put("k", {"it": value, "also": [value]})])

    (found,) = do(store, [GetOp(("a",), "k")])
    assert repr(found.value) == repr({"it": value, "also": [value]})
    assert found.value == {"it": value, "also": [value]}
    assert told(do(store, [search()])[0])[0][:3] == told(found)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"it": [1, {"deep": object()}]}, r"\['it'\]\[1\]\['deep'\]: a object"),
        ({"it": OrderedDict(a=1)}, r"\['it'\]: a OrderedDict"),
        ({"it": len}, r"\['it'\]: a builtin"),
    ],
)
def test_what_would_not_come_back_is_refused_by_its_key(
    kernel: Kernel, do: Do, value: dict[str, Any], place: str
) -> None:
    store = AIOSGraphStore(kernel=kernel)

    with pytest.raises(InvalidRequest, match=rf"value of 'k' in \('a',\){place}"):
        do(store, [put("other", {"n": 1}), put("k", value)])
    assert do(store, [search()]) == [[]], "all of it, or nothing"


# --- expiry --------------------------------------------------------------------------------------


def test_the_default_ttl_holds_and_reading_begins_it_anew(kernel: Kernel) -> None:
    clock = WallClock(kernel)
    store = AIOSGraphStore(kernel=kernel, ttl={"default_ttl": 10, "refresh_on_read": True})
    for key in ("read", "found", "left"):
        store.put(("a",), key, {"key": key})
    before = store.get(("a",), "read")

    clock.pass_minutes(6)
    after = store.get(("a",), "read")
    store.search(("a",), filter={"key": "found"})
    clock.pass_minutes(6)

    assert {item.key for item in store.search(("a",))} == {"read", "found"}
    assert before is not None
    assert after is not None
    assert after.updated_at == before.updated_at, "reading changes nothing"


def test_reading_can_leave_the_time_alone(kernel: Kernel) -> None:
    clock = WallClock(kernel)
    store = AIOSGraphStore(kernel=kernel, ttl={"default_ttl": 10, "refresh_on_read": False})
    store.put(("a",), "default", {"n": 1})
    store.put(("a",), "long", {"n": 1}, ttl=100)
    store.put(("a",), "ever", {"n": 1}, ttl=None)

    clock.pass_minutes(6)
    store.search(("a",))
    store.get(("a",), "default")
    clock.pass_minutes(6)

    assert [item.key for item in store.search(("a",))] == ["long", "ever"]


async def test_what_has_expired_is_swept(kernel: Kernel) -> None:
    clock = WallClock(kernel)
    store = AIOSGraphStore(kernel=kernel, index=index_of(LetterEmbeddings()))
    await store.aput(("a",), "1", {"text": "x"}, ttl=1)
    await store.aput(("a",), "2", {"text": "x"}, ttl=1)
    clock.pass_minutes(2)

    assert await store.asweep_ttl() == 2
    assert store.sweep_ttl() == 0


def test_a_sweeper_runs_until_it_is_stopped(kernel: Kernel) -> None:
    store = AIOSGraphStore(kernel=kernel, ttl={"sweep_interval_minutes": 60})

    future = store.start_ttl_sweeper()

    assert store.stop_ttl_sweeper(10)
    assert future.done()
    assert store.stop_ttl_sweeper()


def test_a_store_has_a_quota_of_its_own(boot: Boot) -> None:
    own = {"default/langgraph": 100_000}
    kernel = boot(memory={"quota_bytes": 1_000, "agent_quotas": own})

    AIOSGraphStore(kernel=kernel).put(("a",), "k", {"text": "x" * 50_000})
