"""Agents' requests for vectors: checked, bounded, paid and accounted, through a whole kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from aios_core import (
    AccessDenied,
    Budget,
    BudgetExceeded,
    EventKind,
    EventLog,
    InvalidRequest,
    Kernel,
    KernelConfig,
    NoSuchObject,
    Overloaded,
    Price,
    RateLimited,
)
from aios_core.cores.embedding.manager import EmbeddingManager
from aios_core.cores.scripted import ScriptedCore
from aios_core.permissions import Access
from aios_core.process import AgentProcess, ProcessTable
from aios_core.retrieval.embedding import MAX_TEXTS, BilledEmbedder, Embed, EmbeddedTexts, Vector
from aios_core.storage.collections.requests import CollectionItem
from tests.puppet import settled


class Paid:
    """An embedder that counts a token for each word, and can be held."""

    name, model, dimensions = "paid@1", "paid", 2

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.is_closed = False

    def max_tokens(self, texts: Sequence[str]) -> int:
        return 2 * sum(len(text.split()) for text in texts)

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        await self.gate.wait()
        if self.error:
            raise self.error
        return EmbeddedTexts([(1.0, 0.0)] * len(texts), sum(len(text.split()) for text in texts))

    async def close(self) -> None:
        self.is_closed = True


def booted(embedder: Paid | None = None, **config: object) -> Kernel:
    settings = KernelConfig(**{"state": {"directory": ":memory:"}, **config})  # type: ignore[arg-type]
    return Kernel(settings, cores=[ScriptedCore("x")], embedder=embedder)


def test_an_agent_embeds_with_the_default_embedder_and_is_accounted() -> None:
    with booted() as kernel:
        agent = kernel.spawn("a")

        one, two = agent.llm.embed(["kettle", "kettle"])

        assert one == two
        assert agent.accounting.num_embedded == 2
        assert agent.accounting.num_requests["llm.embed"] == 1
        assert agent.accounting.usage.total_tokens == 0


async def test_an_agent_embeds_from_an_event_loop() -> None:
    async with booted() as kernel:
        agent = await kernel.aspawn("a")

        assert len(await agent.llm.aembed(["a", "b"])) == 2


def test_tokens_and_money_are_booked_as_they_were_used() -> None:
    with booted(Paid(), prices={"paid": Price(1e6)}) as kernel:
        agent = kernel.spawn("a", budget=Budget(tokens=10, money=100.0, calls=9))
        agent.llm.embed(["one two three"])

        spent = agent._process.budget.spent
        assert (spent.tokens, spent.money, spent.calls) == (3, 3.0, 1)
        assert agent._process.budget.reserved.tokens == 0
        assert agent.accounting.usage.input_tokens == 3
        with pytest.raises(BudgetExceeded):
            agent.llm.embed(["one two three four five six seven eight"])  # and 7 are left
        kernel.check()


async def test_embeddings_wait_for_what_others_have_reserved() -> None:
    embedder = Paid()
    embedder.gate.clear()
    async with booted(embedder) as kernel:
        agent = await kernel.aspawn("a", budget=Budget(tokens=10))
        calls = [asyncio.ensure_future(agent.llm.aembed(["one two three four"])) for _ in range(3)]
        await settled()
        assert agent._process.budget.reserved.tokens <= 10

        embedder.gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[2:]] == [BudgetExceeded], "4 + 4 are spent"
        assert agent._process.budget.spent.tokens == 8


@pytest.mark.parametrize("claim", [-3, 2.5, float("nan"), 10**9, 0])
async def test_an_embedder_is_not_believed_beyond_reason(claim: Any) -> None:
    class Liar(Paid):
        async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
            return EmbeddedTexts([(1.0, 0.0)] * len(texts), claim)

    async with booted(Liar()) as kernel:
        agent = await kernel.aspawn("a", budget=Budget(tokens=100))
        await agent.llm.aembed(["one two three"])

        assert agent._process.budget.spent.tokens == 3


def test_what_searches_embed_is_the_searchers_to_pay_and_an_index_of_files_is_nobodys() -> None:
    with booted(Paid(), prices={"paid": Price(1e6)}) as kernel:
        agent = kernel.spawn("a", budget=Budget(tokens=100, money=100.0, calls=0))
        spent = agent._process.budget.spent

        agent.storage.write("a.txt", "one two three four")
        agent.storage.retrieve("one two")
        assert (spent.tokens, spent.money) == (2, 2.0)
        agent.collections.put("c", [CollectionItem("k", "one two three")])
        assert spent.tokens == 5
        agent.collections.search("c", "one")
        assert spent.tokens == 6
        agent.memory.write("note", "one two")
        agent.memory.search("one")
        assert spent.tokens == 9
        assert agent.accounting.num_embedded == 5
        assert spent.calls == 0
        agent.memory.search("two words")  # has the block's vector already
        assert spent.tokens == 11
        kernel.check()


@pytest.mark.parametrize("way", ["files", "collection", "memory"])
def test_a_search_that_the_budget_does_not_cover_is_refused(way: str) -> None:
    with booted(Paid()) as kernel:
        agent = kernel.spawn("a", budget=Budget(tokens=3))
        agent.storage.write("a.txt", "one")
        agent.collections.put("c", [CollectionItem("k", "one")])

        search = {
            "files": agent.storage.retrieve,
            "collection": partial(agent.collections.search, "c"),
            "memory": agent.memory.search,
        }[way]
        with pytest.raises(BudgetExceeded):
            search("one two three")
        kernel.check()


def test_what_fails_costs_nothing() -> None:
    paid = Paid()
    paid.error = RateLimited("too much", 1.0)
    with booted(paid) as kernel:
        agent = kernel.spawn("a", budget=Budget(tokens=10))

        with pytest.raises(RateLimited):
            agent.llm.embed(["one"])

        budget = agent._process.budget
        assert (budget.spent.tokens, budget.reserved.tokens) == (0, 0)


class Greedy(Paid):
    """An embedder that uses, or reports, more tokens than expected."""

    claim: Any = 0

    def max_tokens(self, texts: Sequence[str]) -> int:
        return 1_000 * len(texts)

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        return EmbeddedTexts([(1.0, 0.0)] * len(texts), self.claim)


def test_what_an_embedder_takes_beyond_a_budget_is_told_and_not_booked() -> None:
    greedy, journal = Greedy(), EventLog()
    greedy.claim = 900
    config = KernelConfig(state={"directory": ":memory:"})  # type: ignore[arg-type]
    cores = [ScriptedCore("x")]
    with Kernel(config, cores=cores, embedder=greedy, observers=[journal]) as kernel:
        agent = kernel.spawn("a", budget=Budget(tokens=100))
        agent.llm.embed(["one two"])
        assert agent.budget.spent.tokens == 100
        kernel.check()

    (overrun,) = [event for event in journal.events() if event.kind is EventKind.OVERRUN]
    assert (overrun.pid, overrun.facts["tokens"], overrun.facts["core"]) == (1, 800, "paid@1")


@pytest.mark.parametrize("claim", [-3, 2.5, "many", None, float("nan"), 10**9, 0])
def test_a_count_of_an_embedder_that_cannot_be_is_told_and_not_booked(claim: object) -> None:
    greedy, journal = Greedy(), EventLog()
    greedy.claim = claim
    config = KernelConfig(state={"directory": ":memory:"})  # type: ignore[arg-type]
    cores = [ScriptedCore("x")]
    with Kernel(config, cores=cores, embedder=greedy, observers=[journal]) as kernel:
        agent = kernel.spawn("a")
        agent.llm.embed(["one two"])
        assert 0 < agent.accounting.usage.input_tokens < 20
        assert agent.accounting.usage.is_estimated

    kinds = [event.kind for event in journal.events()]
    assert kinds.count(EventKind.CLAIM_REJECTED) == (claim != 0), "0 is what says nothing"


def test_the_kernel_closes_the_embedder() -> None:
    paid = Paid()
    with booted(paid):
        pass

    assert paid.is_closed


async def test_too_many_requests_at_once_are_refused_with_a_time_to_come_back() -> None:
    paid, process = Paid(), ProcessTable().spawn("a", now=0.0)
    manager = EmbeddingManager(BilledEmbedder(paid), max_waiting=1)
    paid.gate.clear()
    first = asyncio.create_task(manager.perform(process, Embed(("a",))))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await manager.perform(process, Embed(("b",)))
    manager.check()

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    paid.gate.set()
    assert await manager.perform(process, Embed(("b",))) == ((1.0, 0.0),)
    manager.check()


async def test_another_model_than_the_kernels_is_refused_by_name() -> None:
    manager, process = EmbeddingManager(BilledEmbedder(Paid())), ProcessTable().spawn("a", now=0.0)

    with pytest.raises(NoSuchObject, match="paid@1"):
        await manager.perform(process, Embed(("a",), model="other"))


@pytest.mark.parametrize("texts", ["abc", None, [1], ["a"] * (MAX_TEXTS + 1), ["x" * 5_000_000]])
def test_what_are_no_texts_or_too_many_is_refused(texts: object) -> None:
    with pytest.raises(InvalidRequest, match="texts"):
        Embed(texts)  # type: ignore[arg-type]


def test_embedding_passes_the_access_check() -> None:
    class Nobody:
        def authorize(self, process: AgentProcess, access: Access) -> None:
            raise AccessDenied(process.pid, access.action, str(access.resource))

        def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
            """Not reached."""

    config = KernelConfig(state={"directory": ":memory:"})  # type: ignore[arg-type]
    with (
        Kernel(config, cores=[ScriptedCore("x")], gatekeeper=Nobody()) as kernel,  # type: ignore[arg-type]
        pytest.raises(AccessDenied, match=r"llm\.embed 'model::embedding'"),
    ):
        kernel.spawn("a").llm.embed(["a"])


def test_equal_texts_are_the_same_access_and_other_texts_are_not() -> None:
    one, same, other = (Embed(texts).access("x/y") for texts in (["a", "b"], ["a", "b"], ["ab"]))

    assert one == same != other
