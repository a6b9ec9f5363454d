"""The contract of `ChatCompletionClient`, kept by `AIOSChatCompletionClient`."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from autogen_core import EVENT_LOGGER_NAME, FunctionCall
from autogen_core import CancellationToken as Token
from autogen_core.logging import LLMCallEvent, LLMStreamEndEvent, LLMStreamStartEvent
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelInfo,
    RequestUsage,
    UserMessage,
    validate_model_info,
)
from autogen_core.tools import FunctionTool
from pydantic import BaseModel, ValidationError

from aios_core import Budget, EventKind, Kernel, KernelConfig, Message, Sampling, ToolCall
from aios_core.cores import ScriptedCore
from aios_core.errors import (
    BudgetExceeded,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    KernelClosed,
    NoSuchObject,
)
from aios_core.testing import EventWatcher, cooperative_script
from aios_core.testing.event_watcher import FOREVER_S
from autogen_aios import AIOSChatCompletionClient

from .conftest import Boot


def say(text: str) -> list[LLMMessage]:
    return [UserMessage(content=text, source="user")]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool(add, "Add two numbers.")


def last_request(kernel: Kernel) -> Any:
    (core,) = kernel.pool
    return core.requests[-1]  # type: ignore[attr-defined]


class Joke(BaseModel):
    setup: str
    punchline: str


# --- create --------------------------------------------------------------------------------------


async def test_a_question_gets_its_answer_with_reason_and_usage(kernel: Kernel) -> None:
    result = await AIOSChatCompletionClient(kernel=kernel).create(say("hi"))

    assert result == CreateResult(
        finish_reason="stop",
        content="You said: hi",
        usage=RequestUsage(prompt_tokens=1, completion_tokens=3),
        cached=False,
    )


async def test_without_a_kernel_the_default_one_answers(as_default: Kernel) -> None:
    await AIOSChatCompletionClient().create(say("hi"))

    assert last_request(as_default).messages[0].content == "hi"


async def test_a_tool_is_called_as_the_model_says(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    result = await client.create(say("add 3 and 4"), tools=[ADD])

    assert result.finish_reason == "function_calls"
    assert result.content == [FunctionCall(id="call_1", name="add", arguments='{"a": 3, "b": 4}')]


async def test_parallel_calls_of_one_answer_all_arrive(boot: Boot) -> None:
    calls = [ToolCall("c1", "add", '{"a": 1, "b": 2}'), ToolCall("c2", "add", '{"a": 3, "b": 4}')]
    client = AIOSChatCompletionClient(kernel=boot([calls]))

    result = await client.create(say("add"), tools=[ADD])

    assert isinstance(result.content, list)
    assert [call.id for call in result.content] == ["c1", "c2"]


@pytest.mark.parametrize(("choice", "meant"), [(ADD, "add"), ("required", "required")])
async def test_a_tool_that_must_be_called_is_called(
    kernel: Kernel, choice: Any, meant: str
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    result = await client.create(say("hm"), tools=[ADD], tool_choice=choice)

    assert result.finish_reason == "function_calls"
    assert last_request(kernel).tool_choice == meant


async def test_a_tool_that_must_not_be_called_is_not(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    result = await client.create(say("add 3 and 4"), tools=[ADD], tool_choice="none")

    assert result.finish_reason == "stop"


async def test_structured_output_fits_its_class(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    result = await client.create(say("a joke"), json_output=Joke)

    assert isinstance(result.content, str)
    assert Joke.model_validate_json(result.content)
    assert last_request(kernel).response_format.name == "Joke"


async def test_json_output_is_some_object(kernel: Kernel) -> None:
    result = await AIOSChatCompletionClient(kernel=kernel).create(
        say("the keys 'a' and 'b'"), json_output=True
    )

    assert isinstance(result.content, str)
    assert set(json.loads(result.content)) == {"a", "b"}


async def test_the_clients_options_go_under_those_of_the_call(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel, temperature=0.5, max_tokens=7, stop=["END"])

    await client.create(say("hi"), extra_create_args={"temperature": 1.0, "seed": 3, "top_a": 1})

    asked = last_request(kernel)
    assert asked.sampling == Sampling(7, 1.0, seed=3, stop=("END",))
    assert asked.extra == {"top_a": 1}


async def test_calls_at_once_do_not_wait_for_each_other(boot: Boot, watch: EventWatcher) -> None:
    client = AIOSChatCompletionClient(kernel=boot(latency_s=1.0))

    answers = await asyncio.gather(*(client.create(say(f"{n}")) for n in range(8)))

    assert [answer.content for answer in answers] == [f"You said: {n}" for n in range(8)]
    kinds = [event.kind for event in watch.events]
    assert kinds.index(EventKind.DONE) > len(kinds) - 1 - kinds[::-1].index(EventKind.DISPATCHED)


# --- create_stream -------------------------------------------------------------------------------


async def collect(stream: Any) -> list[str | CreateResult]:
    return [item async for item in stream]


async def test_a_stream_gives_text_piece_by_piece_and_the_result_last(boot: Boot) -> None:
    client = AIOSChatCompletionClient(kernel=boot(token_s=0.001))

    *pieces, last = await collect(client.create_stream(say("a b c")))

    assert isinstance(last, CreateResult)
    assert len(pieces) > 1
    assert "".join(map(str, pieces)) == last.content == "You said: a b c"
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 5)


async def test_tool_calls_of_a_stream_are_in_its_result(boot: Boot) -> None:
    answer = Message("assistant", "let me see", (ToolCall("c1", "add", '{"a": 1, "b": 2}'),))
    client = AIOSChatCompletionClient(kernel=boot([answer], token_s=0.001))

    *pieces, last = await collect(client.create_stream(say("add"), tools=[ADD]))

    assert isinstance(last, CreateResult)
    assert last.content == [FunctionCall(id="c1", name="add", arguments='{"a": 1, "b": 2}')]
    assert "".join(map(str, pieces)) == last.thought == "let me see"
    assert last.finish_reason == "function_calls"


async def test_structured_output_streams_as_text(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    *_, last = await collect(client.create_stream(say("a joke"), json_output=Joke))

    assert Joke.model_validate_json(last.content)


# --- cancelling ----------------------------------------------------------------------------------


async def test_a_token_cancels_a_call_and_frees_its_slot(boot: Boot, watch: EventWatcher) -> None:
    client, token = AIOSChatCompletionClient(kernel=boot(latency_s=FOREVER_S, slots=1)), Token()
    asked = asyncio.create_task(client.create(say("hi"), cancellation_token=token))
    await watch.async_wait(EventKind.DISPATCHED)
    other = asyncio.create_task(client.create(say("hi")))

    token.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asked
    await watch.async_wait(EventKind.DISPATCHED, 2)
    other.cancel()
    await asyncio.wait([other])


async def test_a_token_cancels_a_stream_and_frees_its_slot(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(token_s=0.001, script="word " * 10_000, slots=1)
    token = Token()
    stream = AIOSChatCompletionClient(kernel=kernel).create_stream(
        say("hi"), cancellation_token=token
    )
    assert await anext(stream)

    token.cancel()

    with pytest.raises(asyncio.CancelledError):
        await collect(stream)
    await watch.async_wait(EventKind.CANCELLED)


async def test_a_token_that_was_cancelled_before_lets_nothing_run(kernel: Kernel) -> None:
    token = Token()
    token.cancel()

    with pytest.raises(asyncio.CancelledError):
        await AIOSChatCompletionClient(kernel=kernel).create(say("hi"), cancellation_token=token)


@pytest.mark.parametrize("with_token", [False, True])
async def test_cancelling_the_task_frees_the_slot(
    boot: Boot, watch: EventWatcher, *, with_token: bool
) -> None:
    token = Token() if with_token else None
    client = AIOSChatCompletionClient(kernel=boot(latency_s=FOREVER_S))
    asked = asyncio.create_task(client.create(say("hi"), cancellation_token=token))
    await watch.async_wait(EventKind.DISPATCHED)

    asked.cancel()

    await asyncio.wait([asked])
    await watch.async_wait(EventKind.CANCELLED)


async def test_closing_a_stream_early_frees_the_slot(boot: Boot, watch: EventWatcher) -> None:
    client = AIOSChatCompletionClient(kernel=boot("word " * 10_000, token_s=0.001))
    stream = client.create_stream(say("hi"))
    await anext(stream)

    await stream.aclose()

    await watch.async_wait(EventKind.CANCELLED)


# --- what goes wrong -----------------------------------------------------------------------------


async def test_a_deadline_ends_a_call(boot: Boot) -> None:
    client = AIOSChatCompletionClient(kernel=boot(latency_s=FOREVER_S), timeout=0.01)

    with pytest.raises(DeadlineExceeded):
        await client.create(say("hi"))


async def test_a_budget_of_the_clients_agent_is_kept(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel, agent="poor", budget={"calls": 1})
    await client.create(say("one"))

    with pytest.raises(BudgetExceeded, match="poor"):
        await client.create(say("two"))


async def test_a_closed_kernel_refuses_clearly() -> None:
    kernel = Kernel(KernelConfig(), cores=[ScriptedCore("hi")]).start()
    kernel.close()

    with pytest.raises(KernelClosed):
        await AIOSChatCompletionClient(kernel=kernel).create(say("hi"))


async def test_an_unknown_model_is_refused_with_the_known_ones(kernel: Kernel) -> None:
    with pytest.raises(NoSuchObject, match=r"no model 'other'; have \['scripted'\]"):
        await AIOSChatCompletionClient(kernel=kernel, model="other").create(say("hi"))


async def test_a_prompt_that_is_too_long_is_refused_with_its_size(boot: Boot) -> None:
    client = AIOSChatCompletionClient(kernel=boot(context_window=3))

    with pytest.raises(ContextOverflow):
        await client.create(say("one two three four"))
    assert client.remaining_tokens(say("one two three four")) == -1


@pytest.mark.parametrize(
    "said", [{"aios": "ann"}, {"aios": {"weight": "heavy"}}, {"aios": {"budget": {"fuel": 1}}}]
)
async def test_bad_metadata_is_refused_by_name(kernel: Kernel, said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"aios|weight|budget"):
        await AIOSChatCompletionClient(kernel=kernel).create(say("hi"), extra_create_args=said)


async def test_a_limit_that_is_spelled_wrong_does_not_vanish(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    said = {"aios": {"agent": "ann", "buget": {"calls": 1}}}

    with pytest.raises(InvalidRequest, match="buget"):
        await client.create(say("hi"), extra_create_args=said)
    with pytest.raises(InvalidRequest, match="buget"):
        await anext(client.create_stream(say("hi"), extra_create_args=said))


def test_a_configuration_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="modle"):
        ChatCompletionClient.load_component(
            {"provider": "autogen_aios.AIOSChatCompletionClient", "config": {"modle": "tiny"}}
        )


# --- counting ------------------------------------------------------------------------------------


async def test_usage_adds_up_over_calls_and_streams(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    await client.create(say("one"))
    await collect(client.create_stream(say("two words")))

    assert client.actual_usage() == client.total_usage() == RequestUsage(3, 3 + 4)


def test_tokens_are_counted_as_the_core_counts_them(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    assert client.count_tokens(say("one two three"), tools=[ADD]) == 3
    assert client.remaining_tokens(say("one two three")) == 128_000 - 3


# --- what AutoGen expects of a component ---------------------------------------------------------


def test_the_model_info_is_complete_and_can_be_said_otherwise() -> None:
    info = ModelInfo(
        vision=False, function_calling=False, json_output=True, family="x", structured_output=True
    )

    validate_model_info(AIOSChatCompletionClient().model_info)
    assert AIOSChatCompletionClient(model_info=info).model_info["family"] == "x"
    with pytest.warns(DeprecationWarning, match="model_info"):
        assert AIOSChatCompletionClient().capabilities["function_calling"]


def test_a_client_survives_being_written_down_and_read_again() -> None:
    client = AIOSChatCompletionClient(
        model="m", temperature=0.5, stop=["x"], agent="ann", group="g", budget=Budget(tokens=5)
    )

    dumped = client.dump_component()
    again = ChatCompletionClient.load_component(json.loads(dumped.model_dump_json()))

    assert isinstance(again, AIOSChatCompletionClient)
    assert again.dump_component() == dumped
    assert dumped.provider == "autogen_aios.AIOSChatCompletionClient"
    assert again._settings.budget == Budget(tokens=5)


def test_one_line_of_configuration_makes_a_client() -> None:
    client = ChatCompletionClient.load_component(
        {"provider": "autogen_aios.AIOSChatCompletionClient", "config": {}}
    )

    assert isinstance(client, AIOSChatCompletionClient)


async def test_calls_and_streams_are_told_to_autogens_event_logger(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    with caplog.at_level(logging.INFO, EVENT_LOGGER_NAME):
        await client.create(say("hi"), tools=[ADD], tool_choice="none")
        await collect(client.create_stream(say("hi")))

    call, start, end = [record.msg for record in caplog.records if record.name == EVENT_LOGGER_NAME]
    assert isinstance(call, LLMCallEvent)
    assert isinstance(start, LLMStreamStartEvent)
    assert isinstance(end, LLMStreamEndEvent)
    assert (call.prompt_tokens, call.completion_tokens) == (1, 3)
    assert json.loads(str(call))["tools"][0]["function"]["name"] == "add"
    assert json.loads(str(end))["response"]["content"] == "You said: hi"


# --- loops and threads ---------------------------------------------------------------------------


def test_one_client_serves_one_loop_after_the_other(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    for n in range(2):
        assert asyncio.run(client.create(say(f"{n}"))).content == f"You said: {n}"


def test_one_client_serves_many_loops_on_many_threads(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    def ask(n: int) -> Any:
        return asyncio.run(client.create(say(f"{n}"))).content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [f"You said: {n}" for n in range(40)]
    assert client.total_usage() == RequestUsage(40, 120)


async def test_on_the_kernels_own_loop_nothing_blocks() -> None:
    async with Kernel(KernelConfig(), cores=[ScriptedCore(cooperative_script)]) as kernel:
        client = AIOSChatCompletionClient(kernel=kernel)

        assert (await client.create(say("hi"))).content == "You said: hi"
        assert client.count_tokens(say("one two")) == 2
