"""Mode "passthrough": AutoGen's clients keep their provider and key; the kernel schedules them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from autogen import AssistantAgent as ClassicAgent
from autogen import OpenAIWrapper, UserProxyAgent
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_core import CancellationToken
from autogen_core.models import CreateResult, ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

import aios_core
from aios_adapters import write_completion
from aios_core import (
    BudgetExceeded,
    Completion,
    EventKind,
    FinishReason,
    Kernel,
    Message,
    SyscallCancelled,
    Usage,
)
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Behavior, Hang, Raw, Refuse, StubServer
from autogen_aios.classic import PassthroughClient

HI = [UserMessage(content="hi", source="user")]
WHOLE = Raw(
    json.dumps(
        write_completion(
            Completion(Message("assistant", "native"), FinishReason.STOP, Usage(7, 3), "stub")
        )
    ).encode(),
    "application/json",
)
INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, structured_output=True, family="x"
)

Serve = Callable[..., StubServer]


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    aios_core.install(["autogen", "autogen_classic"], mode="passthrough")
    yield
    aios_core.uninstall()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start providers."""
    running: list[StubServer] = []

    def start(*script: Behavior) -> StubServer:
        running.append(StubServer(list(script), api_key="secret").__enter__())
        return running[-1]

    yield start
    for server in running:
        server.close()


def client_of(server: StubServer) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model="stub", base_url=server.base_url, api_key="secret", model_info=INFO, max_retries=0
    )


@pytest.mark.usefixtures("as_default")
async def test_what_a_budget_has_left_is_the_providers_limit(serve: Serve) -> None:
    server = serve(WHOLE, Answer("a b"), WHOLE, WHOLE)
    client = client_of(server)
    poor = {"aios": {"agent": "poor", "budget": {"tokens": 300}}}

    await client.create(HI, extra_create_args=poor)
    async for _ in client.create_stream(HI, extra_create_args=poor):
        pass
    await client.create(HI, extra_create_args={**poor, "max_tokens": 7})
    await client.create(HI)

    limits = [exchange.body.get("max_tokens") for exchange in server.exchanges]
    assert all(100 < limit < 300 for limit in limits[:2])
    assert limits[2:] == [7, None]


async def test_the_provider_answers_and_the_kernel_books_it(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(WHOLE)
    client = client_of(server)

    result = await AssistantAgent("writer", client).run(task="hi")
    await client.close()

    assert result.messages[-1].to_text() == "native"  # type: ignore[union-attr]
    assert server.exchanges[0].headers["authorization"] == "Bearer secret"
    assert list(watch.names().values()) == ["writer"]
    (process,) = as_default.processes
    assert process.accounting.usage == Usage(7, 3)
    assert watch.counts[EventKind.DONE] == 1


@pytest.mark.usefixtures("as_default")
async def test_a_stream_passes_through_and_is_accounted(serve: Serve, watch: EventWatcher) -> None:
    client = client_of(serve(Answer("one two three")))

    stream = client.create_stream(HI, include_usage=True)
    *pieces, last = [item async for item in stream]
    await client.close()

    assert len(pieces) > 1
    assert isinstance(last, CreateResult)
    assert last.content == "one two three"
    assert watch.counts[EventKind.DONE] == 1


async def test_the_end_of_its_agent_hangs_up_on_the_provider(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(Hang())
    client = client_of(server)
    asked = asyncio.create_task(client.create(HI))
    await server.until(lambda: server.num_active)

    (process,) = as_default.processes
    await as_default.aexit(process.pid)

    with pytest.raises(SyscallCancelled):
        await asked
    await server.until(lambda: server.exchanges[0].was_left)
    await watch.async_wait(EventKind.CANCELLED)
    await client.close()


@pytest.mark.usefixtures("as_default")
async def test_an_agent_whose_call_waits_is_saved_and_copied_as_ever(serve: Serve) -> None:
    server = serve(Hang())
    client = client_of(server)
    agent, token = AssistantAgent("writer", client), CancellationToken()
    run = asyncio.create_task(agent.run(task="hi", cancellation_token=token))
    await server.until(lambda: server.num_active)

    state = json.loads(json.dumps(await agent.save_state()))
    twin = copy.deepcopy(agent)
    await twin.load_state(state)

    assert state["llm_context"]["messages"][-1]["content"] == "hi"
    assert AssistantAgent.load_component(agent.dump_component()).name == twin.name == "writer"
    token.cancel()
    await asyncio.wait([run])
    await client.close()


@pytest.mark.usefixtures("as_default")
async def test_a_providers_own_error_stays_its_own(serve: Serve, watch: EventWatcher) -> None:
    client = client_of(serve(Refuse(400, "bad prompt")))

    with pytest.raises(openai.BadRequestError, match="bad prompt"):
        await client.create(HI)
    await client.close()

    await watch.async_wait(EventKind.FAILED)


async def test_who_calls_can_be_said_and_is_kept_from_the_provider(
    serve: Serve, as_default: Kernel
) -> None:
    server = serve(WHOLE)
    client = client_of(server)

    await client.create(HI, extra_create_args={"aios": {"agent": "ann", "priority": 3}})
    await client.close()

    (ann,) = as_default.processes
    assert (ann.name, ann.priority) == ("ann", 3)
    assert "aios" not in server.exchanges[0].body


def classic_entry(server: StubServer, **more: Any) -> dict[str, Any]:
    return {"model": "stub", "base_url": server.base_url, "api_key": "secret", **more}


def test_classic_agents_keep_their_provider_too(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(WHOLE)
    bot = ClassicAgent("bot", llm_config={"config_list": [classic_entry(server)]})
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)

    result = user.initiate_chat(bot, message="hi", max_turns=1)

    assert result.summary == "native"
    assert list(watch.names().values()) == ["bot"]
    (process,) = as_default.processes
    assert process.accounting.usage == Usage(7, 3)


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("how", ["create", "create_stream", "classic"])
async def test_a_budgets_limit_that_the_provider_refuses_is_left_out_at_once(
    serve: Serve, how: str
) -> None:
    refusal = Refuse(400, "max_tokens is too large: this model supports at most 64 tokens")
    server = serve(refusal, Answer("a b") if "stream" in how else WHOLE)
    poor = {"agent": "poor", "budget": {"tokens": 300}}

    if how == "classic":
        entry = classic_entry(server, aios=poor)
        OpenAIWrapper(config_list=[entry], cache_seed=None).create(
            messages=[{"role": "user", "content": "hi"}]
        )
    elif how == "create":
        await client_of(server).create(HI, extra_create_args={"aios": poor})
    else:
        stream = client_of(server).create_stream(HI, extra_create_args={"aios": poor})
        assert [item async for item in stream]

    bodies = [exchange.body for exchange in server.exchanges]
    assert ["max_tokens" in b or "max_completion_tokens" in b for b in bodies] == [True, False]


@pytest.mark.usefixtures("as_default")
def test_what_a_budget_has_left_is_the_limit_of_classics_provider_too(serve: Serve) -> None:
    server = serve(WHOLE)
    poor = classic_entry(server, aios={"agent": "poor", "budget": {"tokens": 300}})
    entries = [poor, {**poor, "n": 2}, {**poor, "max_completion_tokens": 7}, classic_entry(server)]

    for entry in entries:
        OpenAIWrapper(config_list=[entry]).create(messages=[{"role": "user", "content": "hi"}])

    bodies = [exchange.body for exchange in server.exchanges]
    limits = [body.get("max_tokens", body.get("max_completion_tokens")) for body in bodies]
    assert 200 < limits[0] < 300
    assert 100 < limits[1] < 150, "each of two answers gets half"
    assert limits[2:] == [7, None]


@pytest.mark.usefixtures("as_default")
async def test_a_limit_by_its_newer_name_is_what_is_reserved(serve: Serve) -> None:
    client = client_of(serve(WHOLE))
    poor = {"aios": {"agent": "poor", "budget": {"tokens": 300}}}

    with pytest.raises(BudgetExceeded):
        await client.create(HI, extra_create_args={**poor, "max_completion_tokens": 9_000})
    await client.create(HI, extra_create_args={**poor, "max_completion_tokens": 90})


@pytest.mark.usefixtures("as_default")
def test_classics_fallback_to_the_next_entry_is_kept(serve: Serve, watch: EventWatcher) -> None:
    entries = [
        classic_entry(serve(Refuse(400, "no")), max_retries=0),
        classic_entry(serve(WHOLE), aios={"agent": "second"}),
    ]

    response = OpenAIWrapper(config_list=entries).create(
        messages=[{"role": "user", "content": "hi"}]
    )

    assert response.choices[0].message.content == "native"
    assert watch.counts[EventKind.FAILED] == 1
    assert "second" in watch.names().values()


def test_a_classic_client_is_still_what_it_was(serve: Serve) -> None:
    (client,) = OpenAIWrapper(config_list=[classic_entry(serve(WHOLE))])._clients

    assert isinstance(client, PassthroughClient)
    with suppress(AttributeError):
        pytest.fail(f"it has {client.no_such_attribute}")
    assert client.RESPONSE_USAGE_KEYS
    assert copy.copy(client).RESPONSE_USAGE_KEYS is client.RESPONSE_USAGE_KEYS


def test_streams_that_are_left_when_their_loops_end_end_quietly(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(*[Answer("a b c", then="hang", after=1)] * 6)
    complaints: list[Any] = []

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))
        agent = AssistantAgent("writer", client_of(server), model_client_stream=True)
        async for event in agent.run_stream(task="hi"):
            if isinstance(event, ModelClientStreamingChunkEvent):
                break

    for _ in range(6):  # the loop closes what is left in any order
        asyncio.run(leave())

    watch.wait(EventKind.CANCELLED, 6)
    assert complaints == []
    assert as_default.pool.route("stub@provider")[0].load().num_running == 0
