"""Mode "passthrough": LlamaIndex's OpenAI LLM keeps its provider and key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

import aios_core
from aios_adapters import write_completion
from aios_core import (
    Budget,
    Completion,
    EventKind,
    FinishReason,
    Kernel,
    KernelClosed,
    Message,
    SyscallCancelled,
    ToolCall,
    Usage,
    set_default_kernel,
)
from aios_core.cores.external import ExternalCore
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Behavior, Hang, Raw, Refuse, StubServer

HI = [ChatMessage(role="user", content="hi")]
MODEL = "gpt-4o"  # LlamaIndex knows its window, and that it calls functions
ADD = ToolCall("c1", "add", '{"a": 3, "b": 4}')
USAGE = {"stream_options": {"include_usage": True}}


def whole(text: str = "native", *calls: ToolCall) -> Raw:
    reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    answer = Completion(Message("assistant", text, calls), reason, Usage(7, 3), MODEL)
    return Raw(json.dumps(write_completion(answer)).encode(), "application/json")


Serve = Callable[..., StubServer]


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    aios_core.install("llamaindex", mode="passthrough")
    yield
    aios_core.uninstall()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start providers."""
    running: list[StubServer] = []

    def start(*script: Behavior) -> StubServer:
        server = StubServer(list(script), models=[MODEL], api_key="secret")
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.close()


def llm_of(server: StubServer, **settings: Any) -> OpenAI:
    return OpenAI(
        model=MODEL, api_base=server.base_url, api_key="secret", max_retries=0, **settings
    )


@pytest.mark.usefixtures("as_default")
async def test_what_a_budget_has_left_is_the_providers_limit(serve: Serve) -> None:
    server = serve(whole(), whole(), Answer("a b"), Answer("c d"), whole(), whole())
    llm = llm_of(server)
    with instrument_tags({"aios_agent": "poor", "aios_budget": Budget(tokens=300)}):
        llm.complete("hi")
        await llm.acomplete("hi")
        list(llm.stream_complete("hi"))
        async for _ in await llm.astream_complete("hi"):
            pass
        llm.complete("hi", max_tokens=7)
    llm.complete("hi")

    limits = [exchange.body.get("max_tokens") for exchange in server.exchanges]
    assert all(100 < limit < 300 for limit in limits[:4])
    assert limits[4:] == [7, None]


async def _read_stream(llm: OpenAI) -> list[Any]:
    return [step async for step in await llm.astream_complete("hi")]


TOO_MUCH = Refuse(400, "max_tokens is too large: this model supports at most 64 completion tokens")


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: asyncio.to_thread(llm.complete, "hi"),
        lambda llm: llm.acomplete("hi"),
        lambda llm: asyncio.to_thread(lambda: list(llm.stream_complete("hi"))),
        _read_stream,
    ],
    ids=["complete", "acomplete", "stream_complete", "astream_complete"],
)
async def test_a_budgets_limit_that_the_provider_refuses_is_left_out_at_once(
    serve: Serve, ask: Callable[[OpenAI], Any], request: pytest.FixtureRequest
) -> None:
    is_streamed = "stream" in request.node.callspec.id
    server = serve(TOO_MUCH, Answer("a b") if is_streamed else whole())
    with instrument_tags({"aios_agent": "poor", "aios_budget": Budget(tokens=300)}):
        assert await ask(llm_of(server))

    assert ["max_tokens" in exchange.body for exchange in server.exchanges] == [True, False]


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": MODEL,
    "status": "completed",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "native", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    },
}


def response() -> Raw:
    """An answer of the Responses API."""
    return Raw(json.dumps(RESPONSE).encode(), "application/json")


def response_stream() -> Raw:
    """Return the response as a stream of events."""
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    events = (
        {"type": "response.output_text.delta", "delta": "na", **delta},
        {"type": "response.output_text.delta", "delta": "tive", **delta},
        {"type": "response.completed", "response": RESPONSE},
    )
    lines = (
        f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    )
    return Raw("".join(lines).encode())


# --- the provider answers, the kernel books ------------------------------------------------------


@pytest.mark.usefixtures("as_default")
async def test_all_eight_ways_to_ask_the_provider_are_accounted(
    serve: Serve, watch: EventWatcher
) -> None:
    llm = llm_of(serve(whole(), whole(), whole(), whole(), Answer("a b")))

    assert llm.chat(HI).message.content == "native"
    assert (await llm.achat(HI)).message.content == "native"
    assert llm.complete("hi").text == "native"
    assert (await llm.acomplete("hi")).text == "native"
    assert "".join(step.delta or "" for step in llm.stream_chat(HI)) == "a b"
    assert "".join([step.delta or "" async for step in await llm.astream_chat(HI)]) == "a b"
    assert "".join(step.delta or "" for step in llm.stream_complete("hi")) == "a b"
    assert "".join([step.delta or "" async for step in await llm.astream_complete("hi")]) == "a b"

    assert watch.counts[EventKind.DONE] == 8


async def test_the_tokens_that_the_provider_counts_are_the_agents(
    serve: Serve, as_default: Kernel
) -> None:
    server = serve(whole(), Answer("one two three"))
    llm = llm_of(server, additional_kwargs=USAGE)

    with instrument_tags({"aios_agent": "reader", "aios_group": "desk"}):
        await llm.achat(HI)
        steps = [step async for step in await llm.astream_chat(HI)]

    (reader,) = as_default.processes
    assert (reader.name, reader.group.name) == ("reader", "desk")
    assert steps[-1].message.content == "one two three"
    assert reader.accounting.usage == Usage(7, 3) + Usage(1, 3)
    assert server.exchanges[0].headers["authorization"] == "Bearer secret"


EARLY = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "one "}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
LATE = {
    **EARLY,
    "choices": [{"index": 0, "delta": {"content": "two"}, "finish_reason": "stop"}],
    "usage": None,
}


def test_tokens_are_accounted_wherever_in_a_stream_they_are_counted(
    serve: Serve, as_default: Kernel
) -> None:
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (EARLY, LATE))
    llm = llm_of(serve(Raw(f"{events}data: [DONE]\n\n".encode())))

    with instrument_tags({"aios_agent": "reader"}):
        steps = list(llm.stream_chat(HI))

    assert steps[-1].message.content == "one two"
    (reader,) = as_default.processes
    assert reader.accounting.usage == Usage(7, 3)


@pytest.mark.usefixtures("as_default")
async def test_an_agents_function_calls_are_the_providers_and_one_agents(
    serve: Serve, watch: EventWatcher
) -> None:
    server = serve(Answer(tool_calls=(ADD,)), Answer("it is seven"))
    agent = FunctionAgent(llm=llm_of(server), tools=[add], timeout=20)

    answer = await agent.run("add 3 and 4")

    assert str(answer) == "it is seven"
    assert server.exchanges[1].body["messages"][-1]["content"] == "7"
    assert len(set(watch.callers())) == 1
    assert watch.counts[EventKind.DONE] == 2
    await watch.async_wait(EventKind.AGENT_EXITED)


@pytest.mark.usefixtures("as_default")
def test_a_blocking_call_with_tools_is_accounted_with_its_calls(
    serve: Serve, watch: EventWatcher
) -> None:
    llm = llm_of(serve(whole("", ADD)))

    answer = llm.chat_with_tools([FunctionTool.from_defaults(add)], "add 3 and 4")

    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 3, "b": 4})
    assert watch.counts[EventKind.DONE] == 1


def test_a_server_like_openais_asks_for_completions_in_a_slot_too(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(Answer("a b"))
    llm = OpenAILike(
        model=MODEL, api_base=server.base_url, api_key="secret", is_chat_model=False, max_tokens=9
    )

    assert list(llm.stream_complete("hi"))[-1].text == "a b"

    assert server.exchanges[0].path == "/v1/completions"
    assert watch.counts[EventKind.DONE] == 1
    assert f"{MODEL}@provider" in as_default.pool.models


@pytest.mark.usefixtures("as_default")
def test_a_picture_is_the_providers_business(serve: Serve, watch: EventWatcher) -> None:
    picture = ImageBlock(url="https://x.example/a.png")
    llm = llm_of(serve(whole()))

    assert llm.chat([ChatMessage(role="user", blocks=[picture])]).message.content == "native"
    assert watch.counts[EventKind.DONE] == 1


# --- bad days ------------------------------------------------------------------------------------


async def test_the_end_of_its_agent_hangs_up_on_the_provider(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(Hang())
    asked = asyncio.create_task(llm_of(server).achat(HI))
    await server.until(lambda: server.num_active)

    (process,) = as_default.processes
    await as_default.aexit(process.pid)

    with pytest.raises(SyscallCancelled):
        await asked
    await server.until(lambda: server.exchanges[0].was_left)
    await watch.async_wait(EventKind.CANCELLED)


@pytest.mark.usefixtures("as_default")
async def test_a_stream_that_is_closed_early_frees_its_slot(
    serve: Serve, watch: EventWatcher
) -> None:
    server = serve(Answer("one two three", then="hang", after=1))
    stream = await llm_of(server).astream_chat(HI)
    await anext(stream)

    await stream.aclose()  # type: ignore[attr-defined] # a generator

    await watch.async_wait(EventKind.CANCELLED)


async def test_the_end_of_its_agent_hangs_up_in_the_middle_of_a_stream(
    serve: Serve, as_default: Kernel
) -> None:
    server = serve(Answer("one two three", then="hang", after=1))
    stream = await llm_of(server).astream_chat(HI)
    await anext(stream)

    (process,) = as_default.processes
    await as_default.aexit(process.pid)

    with pytest.raises(SyscallCancelled):
        await anext(stream)
    await server.until(lambda: server.exchanges[0].was_left)


@pytest.mark.usefixtures("as_default")
async def test_a_providers_own_error_stays_its_own(serve: Serve, watch: EventWatcher) -> None:
    llm = llm_of(serve(Refuse(400, "bad prompt")))

    with pytest.raises(openai.BadRequestError, match="bad prompt"):
        await llm.achat(HI)

    await watch.async_wait(EventKind.FAILED)


def test_a_closed_kernel_refuses_and_nobody_is_asked(serve: Serve) -> None:
    server = serve(whole())
    with Kernel(cores=[ExternalCore(MODEL)]) as kernel:
        former = set_default_kernel(kernel)

    try:
        with pytest.raises(KernelClosed):
            llm_of(server).chat(HI)
    finally:
        set_default_kernel(former)
    assert not server.exchanges


def test_uninstalling_gives_the_class_back() -> None:
    patched = OpenAI._achat
    aios_core.uninstall()

    assert OpenAI._achat is not patched
    assert "llama_index_aios" not in OpenAI._achat.__code__.co_filename


async def test_the_four_ways_to_ask_the_responses_api_are_accounted(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(response(), response(), response_stream(), response_stream())
    llm = OpenAIResponses(
        model=MODEL, api_base=server.base_url, api_key="secret", max_retries=0, max_output_tokens=9
    )

    assert llm.chat(HI).message.content == "native"
    assert (await llm.achat(HI)).message.content == "native"
    assert "".join(step.delta or "" for step in llm.stream_chat(HI)) == "native"
    assert "".join([step.delta or "" async for step in await llm.astream_chat(HI)]) == "native"

    watch.wait(EventKind.DONE, 4)
    (process,) = as_default.processes
    assert process.accounting.usage == Usage(28, 12, 16)
    assert [exchange.path for exchange in server.exchanges] == ["/v1/responses"] * 4


async def test_the_six_ways_to_embed_are_scheduled_and_cost_what_the_provider_counts(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(*[Answer()] * 6)
    model = OpenAIEmbedding(
        model_name=MODEL, api_base=server.base_url, api_key="secret", max_retries=0
    )

    one = model.get_text_embedding("tea")
    assert one == model.get_query_embedding("tea") == await model.aget_query_embedding("tea")
    assert await model.aget_text_embedding("tea") == one
    assert model.get_text_embedding_batch(["tea", "tea"]) == [one, one]
    assert await model.aget_text_embedding_batch(["tea", "tea"]) == [one, one]

    watch.wait(EventKind.DONE, 6)
    (process,) = as_default.processes
    assert len(server.exchanges) == 6
    assert process.accounting.usage.input_tokens > 0
    assert process.accounting.usage.output_tokens == 0


@pytest.mark.usefixtures("as_default")
async def test_a_provider_that_refuses_to_embed_raises_its_own_error(
    serve: Serve, watch: EventWatcher
) -> None:
    server = serve(Refuse(400, "bad text"), Refuse(400, "bad text"))
    model = OpenAIEmbedding(
        model_name=MODEL, api_base=server.base_url, api_key="secret", max_retries=0
    )

    with pytest.raises(openai.BadRequestError, match="bad text"):
        model.get_text_embedding("tea")
    with pytest.raises(openai.BadRequestError, match="bad text"):
        await model.aget_text_embedding("tea")

    watch.wait(EventKind.FAILED, 2)


def test_streams_that_are_left_when_their_loops_end_end_quietly(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(*[Answer("one two three", then="hang", after=1)] * 6)
    complaints: list[Any] = []

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))
        async for _ in await llm_of(server).astream_chat(HI):
            break

    for _ in range(6):  # the loop closes what is left in any order
        asyncio.run(leave())

    watch.wait(EventKind.CANCELLED, 6)
    assert complaints == []
    assert as_default.pool.route(f"{MODEL}@provider")[0].load().num_running == 0
