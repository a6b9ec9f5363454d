"""Mode "passthrough": Agent Framework's OpenAI clients keep their provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from agent_framework import Agent, Content, Message
from agent_framework.exceptions import ChatClientException
from agent_framework.openai import (
    OpenAIChatClient,
    OpenAIChatCompletionClient,
    RawOpenAIChatClient,
)

import aios_core
from aios_adapters import write_completion
from aios_core import (
    Completion,
    EventKind,
    FinishReason,
    Kernel,
    KernelClosed,
    SyscallCancelled,
    ToolCall,
    Usage,
    set_default_kernel,
)
from aios_core import Message as KernelMessage
from aios_core.cores.external import ExternalCore
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Behavior, Hang, Raw, Refuse, StubServer

HI = [Message("user", ["hi"])]
WHOLE = Raw(
    json.dumps(
        write_completion(
            Completion(KernelMessage("assistant", "native"), FinishReason.STOP, Usage(7, 3), "stub")
        )
    ).encode(),
    "application/json",
)
ADD = Answer(tool_calls=(ToolCall("c1", "add", '{"a": 3, "b": 4}'),))

Serve = Callable[..., StubServer]


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    aios_core.install("agent_framework", mode="passthrough")
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


@asynccontextmanager
async def client_of(server: StubServer) -> AsyncIterator[OpenAIChatCompletionClient]:
    """A client that hangs up when the block ends."""
    async with openai.AsyncOpenAI(
        base_url=server.base_url, api_key="secret", max_retries=0
    ) as theirs:
        yield OpenAIChatCompletionClient(model="stub", async_client=theirs)


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


# --- the provider answers, the kernel books ------------------------------------------------------


async def test_the_provider_answers_and_the_kernel_books_it(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(WHOLE)
    async with client_of(server) as client:
        agent = Agent(client, name="writer")
        response = await agent.run("hi")

    assert response.text == "native"
    assert server.exchanges[0].headers["authorization"] == "Bearer secret"
    (process,) = as_default.processes
    assert (process.name, process.accounting.usage) == ("writer", Usage(7, 3))
    assert watch.counts[EventKind.DONE] == 1


async def test_an_agent_that_streams_runs_its_tools_and_every_step_is_accounted(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(ADD, Answer("it is seven"))
    async with client_of(server) as client:
        agent = Agent(client, name="writer", tools=[add])
        stream = agent.run("add 3 and 4", stream=True)
        pieces = [update.text async for update in stream if update.text]
        response = await stream.get_final_response()

    assert len(pieces) > 1
    assert response.text.endswith("it is seven")
    assert server.exchanges[1].body["messages"][-1]["content"] == "7"
    (process,) = as_default.processes
    assert process.name == "writer"
    assert process.accounting.usage.output_tokens >= 4, "the provider counts words"
    assert watch.counts[EventKind.DONE] == 2


async def test_structured_output_is_parsed_as_ever(serve: Serve, as_default: Kernel) -> None:
    form = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with client_of(serve(Answer('{"n": 1}'))) as client:
        stream = client.get_response(HI, stream=True, options={"response_format": form})
        response = await stream.get_final_response()

    assert response.value == {"n": 1}
    assert len(as_default.processes) == 1


async def test_who_calls_can_be_said_and_is_kept_from_the_provider(
    serve: Serve, as_default: Kernel
) -> None:
    server = serve(WHOLE)
    async with client_of(server) as client:
        agent = Agent(client, name="x", default_options={"aios": {"agent": "ann"}})
        await agent.run("hi")
        await agent.run("hi", client_kwargs={"aios": {"agent": "bob", "priority": 3}})

    ann, bob = as_default.processes
    assert (ann.name, bob.name, bob.priority) == ("ann", "bob", 3)
    assert all("aios" not in exchange.body for exchange in server.exchanges)


@pytest.mark.usefixtures("as_default")
async def test_what_a_budget_has_left_is_the_providers_limit(serve: Serve) -> None:
    server = serve(WHOLE, Answer("a b"), WHOLE, WHOLE)
    whose = {"aios": {"agent": "poor", "budget": {"tokens": 300}}}
    async with client_of(server) as client:
        agent = Agent(client, name="x", default_options=whose)
        await agent.run("hi")
        stream = agent.run("hi", stream=True)
        assert (await stream.get_final_response()).text == "a b"
        await agent.run("hi", options={"max_tokens": 7})
        await Agent(client, name="y").run("hi")

    limits = [exchange.body.get("max_completion_tokens") for exchange in server.exchanges]
    assert all(100 < limit < 300 for limit in limits[:2])
    assert limits[2:] == [7, None]


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_budgets_limit_that_the_provider_refuses_is_left_out_at_once(
    serve: Serve, is_streamed: bool
) -> None:
    refusal = Refuse(400, "max_tokens is too large: this model supports at most 64 tokens")
    server = serve(refusal, Answer("a b") if is_streamed else WHOLE)
    whose = {"aios": {"agent": "poor", "budget": {"tokens": 300}}}
    async with client_of(server) as client:
        agent = Agent(client, name="x", default_options=whose)
        if is_streamed:
            assert (await agent.run("hi", stream=True).get_final_response()).text == "a b"
        else:
            assert await agent.run("hi")

    limits = ["max_completion_tokens" in exchange.body for exchange in server.exchanges]
    assert limits == [True, False]


@pytest.mark.usefixtures("as_default")
async def test_a_picture_is_the_providers_business(serve: Serve, watch: EventWatcher) -> None:
    picture = Content.from_uri("https://x.example/a.png", media_type="image/png")
    async with client_of(serve(WHOLE)) as client:
        response = await client.get_response([Message("user", [picture])])

    assert response.text == "native"
    assert watch.counts[EventKind.DONE] == 1


# --- OpenAI's Responses, which the stub does not speak --------------------------------------------

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": "stub",
    "status": "completed",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "native", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    },
}
DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "native",
    "logprobs": [],
    "sequence_number": 1,
}
COMPLETED = {"type": "response.completed", "response": RESPONSE, "sequence_number": 2}


def responding(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/responses/resp_1":
        return httpx.Response(200, json=RESPONSE)
    assert request.url.path == "/v1/responses"
    if not json.loads(request.content).get("stream"):
        return httpx.Response(200, json=RESPONSE)
    events = "".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in (DELTA, COMPLETED)
    )
    return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_client_of_responses_is_scheduled_too(
    as_default: Kernel, watch: EventWatcher, stream: bool
) -> None:
    transport = httpx.AsyncClient(transport=httpx.MockTransport(responding))
    async with openai.AsyncOpenAI(api_key="secret", http_client=transport) as theirs:
        agent = Agent(OpenAIChatClient(model="stub", async_client=theirs), name="writer")
        if stream:
            response = await agent.run("hi", stream=True).get_final_response()
        else:
            response = await agent.run("hi")

    assert response.text == "native"
    (process,) = as_default.processes
    assert (process.name, process.accounting.usage) == ("writer", Usage(7, 3, 2))
    assert watch.counts[EventKind.DONE] == 1


@pytest.mark.usefixtures("as_default")
async def test_a_token_to_go_on_with_is_used_up_as_ever() -> None:
    options = {
        "continuation_token": {"response_id": "resp_1"},
        "aios": {"agent": "ann"},
        "temperature": 0.5,
    }
    transport = httpx.AsyncClient(transport=httpx.MockTransport(responding))
    async with openai.AsyncOpenAI(api_key="secret", http_client=transport) as theirs:
        client = RawOpenAIChatClient(model="stub", async_client=theirs)
        response = await client.get_response(HI, options=options)  # type: ignore[call-overload]

    assert response.text == "native"
    assert options == {"aios": {"agent": "ann"}, "temperature": 0.5}


# --- bad days ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_end_of_its_agent_hangs_up_on_the_provider(
    serve: Serve, as_default: Kernel, watch: EventWatcher, stream: bool
) -> None:
    server = serve(Answer("one two", then="hang", after=1) if stream else Hang())
    async with client_of(server) as client:
        response: Any = client.get_response(HI, stream=stream)
        waiting = response.get_final_response() if stream else response
        asked = asyncio.ensure_future(waiting)
        await server.until(lambda: server.num_active)
        await server.until(lambda: server.exchanges[0].num_chunks == int(stream))

        (process,) = as_default.processes
        await as_default.aexit(process.pid)

        with pytest.raises(SyscallCancelled) as caught:
            await asked
        assert isinstance(caught.value, ChatClientException)
        await server.until(lambda: server.exchanges[0].was_left)
    await watch.async_wait(EventKind.CANCELLED)


@pytest.mark.usefixtures("as_default")
async def test_a_stream_that_is_closed_early_hangs_up_and_frees_its_slot(
    serve: Serve, watch: EventWatcher
) -> None:
    server = serve(Answer("one two three", then="hang", after=1))
    async with client_of(server) as client:
        async with client.get_response(HI, stream=True) as stream:
            await anext(stream)

        await server.until(lambda: server.exchanges[0].was_left)
    await watch.async_wait(EventKind.CANCELLED)


@pytest.mark.usefixtures("as_default")
async def test_a_providers_own_error_stays_its_own(serve: Serve, watch: EventWatcher) -> None:
    async with client_of(serve(Refuse(400, "bad prompt"))) as client:
        with pytest.raises(ChatClientException, match="bad prompt") as caught:
            await client.get_response(HI)

    assert not isinstance(caught.value, aios_core.KernelError)
    await watch.async_wait(EventKind.FAILED)


async def test_a_closed_kernel_refuses_and_nobody_is_asked(serve: Serve) -> None:
    server = serve(WHOLE)
    async with Kernel(cores=[ExternalCore("stub")]) as kernel:
        former = set_default_kernel(kernel)

    try:
        async with client_of(server) as client:
            with pytest.raises(KernelClosed):
                await client.get_response(HI)
    finally:
        set_default_kernel(former)
    assert not server.exchanges


def test_uninstalling_gives_the_classes_back() -> None:
    patched = OpenAIChatCompletionClient._inner_get_response
    aios_core.uninstall()

    assert OpenAIChatCompletionClient._inner_get_response is not patched
