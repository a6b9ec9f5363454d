"""An endpoint under a kernel: limits that are sent and kept, figures that are judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aios_core import Agent, Budget, EventKind, EventLog, FinishReason, Kernel, KernelConfig
from aios_core.cores import OpenAICore
from aios_core.errors import RequestRefused
from aios_core.messages import Usage
from aios_core.testing.stub_server import Answer, Behavior, Hang, Raw, Refuse, Script, StubServer

LONG = "word " * 600
CANNOT_BE = [-5, 12.5, float("nan"), 10**12, "many", None, True, 0]


@asynccontextmanager
async def agent_of(
    script: Script, budget: Budget | None = None, **options: Any
) -> AsyncIterator[tuple[Agent, StubServer, EventLog]]:
    """Yield an agent of a kernel with a stub server as its one core."""
    journal = EventLog()
    with StubServer(script, **options) as server:
        core = OpenAICore(server.base_url, ["stub"])
        async with Kernel(KernelConfig(drain_s=0.0), cores=[core]) as kernel:
            kernel.subscribe(journal)
            yield await kernel.aspawn("a", budget=budget), server, journal
            kernel.check()


def body_of(server: StubServer) -> dict[str, Any]:
    return server.exchanges[-1].body


def spent(agent: Agent) -> int:
    return agent._process.budget.spent.tokens


def told(journal: EventLog, kind: EventKind) -> list[dict[str, Any]]:
    return [event.facts for event in journal.events() if event.kind is kind]


# --- what is sent ---------------------------------------------------------------------------------


async def test_a_limit_that_nobody_set_is_not_sent() -> None:
    async with agent_of(Answer("ok")) as (agent, server, _):
        await agent.llm.agenerate("hello")

        assert not {"max_tokens", "max_completion_tokens"} & body_of(server).keys()


async def test_what_a_budget_has_left_is_sent_as_the_limit() -> None:
    async with agent_of(Answer("ok"), Budget(tokens=300)) as (agent, server, _):
        await agent.llm.agenerate("hello")
        first = body_of(server)["max_tokens"]
        await agent.llm.agenerate("hello")

        assert 280 < body_of(server)["max_tokens"] < first < 300


async def test_the_callers_limit_is_sent_as_it_is() -> None:
    async with agent_of(Answer("ok"), Budget(tokens=300)) as (agent, server, _):
        await agent.llm.agenerate("hello", max_tokens=50)

        assert body_of(server)["max_tokens"] == 50


async def test_a_budgets_limit_that_the_server_refuses_is_left_away_and_kept_all_the_same() -> None:
    def strict(body: dict[str, Any]) -> Behavior:
        if body.get("max_tokens", 0) > 100:
            return Refuse(400, "max_tokens is too large: this model supports at most 100")
        return Answer(LONG, obeys_limit=False)

    async with agent_of(strict, Budget(tokens=500)) as (agent, server, _):
        answer = await agent.llm.agenerate("hello")

        assert answer.length_reason == "budget"
        assert [e.body.get("max_tokens") is None for e in server.exchanges] == [False, True]
        assert spent(agent) <= 500


async def test_a_callers_limit_that_the_server_refuses_is_the_callers_mistake() -> None:
    script = Refuse(400, "max_tokens is too large: this model supports at most 100")
    async with agent_of(script) as (agent, server, _):
        with pytest.raises(RequestRefused, match="max_tokens is too large"):
            await agent.llm.agenerate("hello", max_tokens=5_000)

        assert len(server.exchanges) == 1


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens_per_chunk", [1, 7, 600])
async def test_a_server_that_ignores_limits_is_stopped_at_the_budget(tokens_per_chunk: int) -> None:
    script = Answer(LONG, obeys_limit=False, tokens_per_chunk=tokens_per_chunk, token_s=0.0001)
    async with agent_of(script, Budget(tokens=300)) as (agent, server, journal):
        answer = await agent.llm.agenerate("hello")
        await server.until(lambda: server.exchanges[0].is_over)

        assert answer.finish_reason is FinishReason.LENGTH
        assert answer.length_reason == "budget"
        assert 200 < len(answer.text.split()) < 300
        assert spent(agent) <= 300
        assert told(journal, EventKind.CUT)[0]["reason"] == "budget"
        assert server.exchanges[0].num_chunks < 600 / tokens_per_chunk or tokens_per_chunk == 600


async def test_a_server_that_ignores_the_callers_limit_is_stopped_there() -> None:
    script = Answer(LONG, obeys_limit=False, token_s=0.0001)
    async with agent_of(script) as (agent, server, _):
        stream = agent.llm.astream("hello", max_tokens=50)
        pieces = [piece.text async for piece in stream]

        assert "".join(pieces) == stream.completion.text == "word " * 50
        assert stream.completion.length_reason == "max_tokens"
        assert stream.completion.usage.output_tokens == 50
        assert server.exchanges[0].num_chunks < 600


async def test_a_whole_answer_where_a_stream_was_asked_is_kept_to_the_limit_too() -> None:
    message = {"role": "assistant", "content": LONG}
    whole = {
        "id": "x",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 600},
    }
    script = Raw(json.dumps(whole).encode(), "application/json")
    async with agent_of(script, Budget(tokens=10_000)) as (agent, _, _journal):
        answer = await agent.llm.agenerate("hello", max_tokens=50)

        assert answer.length_reason == "max_tokens"
        assert 0 < len(answer.text.split()) <= 50
        assert spent(agent) <= 60


async def test_an_answer_that_the_server_ended_at_its_limit_says_which_limit_that_was() -> None:
    async with agent_of(Answer(LONG), Budget(tokens=300)) as (agent, _, journal):
        own = await agent.llm.agenerate("hello", max_tokens=20)
        budgets = await agent.llm.agenerate("hello")

        assert (own.length_reason, own.usage.output_tokens) == ("max_tokens", 20)
        assert budgets.length_reason == "budget"
        assert not told(journal, EventKind.CUT)
        assert spent(agent) <= 300


# --- what is believed -----------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CANNOT_BE, ids=repr)
@pytest.mark.parametrize("key", ["prompt_tokens", "completion_tokens"])
async def test_a_usage_that_cannot_be_is_replaced_by_the_kernels_count(
    key: str, claim: Any
) -> None:
    script = Answer("one two three four", usage={key: claim})
    async with agent_of(script, Budget(tokens=10_000)) as (agent, _, journal):
        answer = await agent.llm.agenerate("hello")

        assert answer.text == "one two three four"
        assert answer.usage.output_tokens == 4
        assert 1 <= answer.usage.input_tokens <= 10
        assert answer.usage.is_estimated
        assert spent(agent) == answer.usage.total_tokens
        assert told(journal, EventKind.CLAIM_REJECTED)[0]["core"] == "openai"


@pytest.mark.parametrize("claim", [-1, 10**9, float("nan"), 0.5], ids=repr)
async def test_cached_tokens_that_cannot_be_are_not_counted(claim: Any) -> None:
    script = Answer("ok", usage={"prompt_tokens_details": {"cached_tokens": claim}})
    async with agent_of(script) as (agent, _, journal):
        answer = await agent.llm.agenerate("hello")

        assert answer.usage.cached_tokens == 0
        assert "cached_tokens" in told(journal, EventKind.CLAIM_REJECTED)[0]["reason"]


async def test_a_server_without_usage_is_booked_by_a_count() -> None:
    async with agent_of(Answer("word " * 60, has_usage=False), Budget(tokens=5_000)) as (
        agent,
        _,
        journal,
    ):
        for _ in range(3):
            answer = await agent.llm.agenerate("hello " * 200)
            assert answer.usage.is_estimated
            assert answer.usage.output_tokens == 60

        assert 3 * 60 < spent(agent) < 3 * (60 + 400)
        assert all(facts["is_estimated"] for facts in told(journal, EventKind.DONE))


async def test_a_call_that_is_cancelled_before_its_first_token_costs_the_prompt_that_was_sent() -> (
    None
):
    async with agent_of(Hang(), Budget(tokens=5_000)) as (agent, server, _):
        call = asyncio.ensure_future(agent.llm.agenerate("hello " * 40))
        await server.until(lambda: server.exchanges)
        call.cancel()
        await asyncio.wait([call])

    assert 40 <= spent(agent) <= 80
    assert agent._process.accounting.usage == Usage(spent(agent), 0, is_estimated=True)


async def test_a_call_that_was_refused_costs_nothing() -> None:
    async with agent_of(Refuse(400, "no"), Budget(tokens=5_000)) as (agent, _, _journal):
        with pytest.raises(RequestRefused, match="no"):
            await agent.llm.agenerate("hello " * 40)

        assert spent(agent) == 0


@pytest.mark.parametrize("window", [-1, 0, 10**12, True])
async def test_a_context_window_that_cannot_be_is_not_believed(window: int) -> None:
    with StubServer(Answer("ok"), flavor="vllm") as server:
        server._context_window = window
        core = OpenAICore(server.base_url, ["stub"])
        await core.start(lambda _: None)

        assert core.capabilities.context_window == 128_000
        await core.close()


@pytest.mark.parametrize("pause", ["nan", "-5", "31536000", "inf", "soon"])
async def test_a_pause_that_cannot_be_meant_holds_nobody_up(pause: str) -> None:
    script = [Refuse(429, headers={"Retry-After": pause}), Answer("ok")]
    async with agent_of(script) as (agent, server, _):
        async with asyncio.timeout(30):
            answer = await agent.llm.agenerate("hello")

        assert answer.text == "ok"
        assert len(server.exchanges) == 2, "one more attempt, not a storm of them"
