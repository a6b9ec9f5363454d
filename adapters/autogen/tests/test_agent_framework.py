"""Microsoft Agent Framework's agents on the kernel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from agent_framework import Agent, ChatMiddleware, Content, Message
from agent_framework.exceptions import ChatClientException, ChatClientInvalidRequestException
from pydantic import BaseModel

from aios_core import EventKind, Kernel, ToolCall
from aios_core import Message as KernelMessage
from aios_core.errors import BudgetExceeded, InvalidRequest
from aios_core.testing import EventWatcher
from aios_core.testing.event_watcher import FOREVER_S
from autogen_aios.agent_framework import AIOSChatClient, RawAIOSChatClient

from .conftest import Boot

HI = [Message("user", ["hi"])]


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def last_request(kernel: Kernel) -> Any:
    (core,) = kernel.pool
    return core.requests[-1]  # type: ignore[attr-defined]


class Joke(BaseModel):
    setup: str
    punchline: str


async def test_a_client_answers_with_model_reason_and_usage(kernel: Kernel) -> None:
    response = await RawAIOSChatClient(kernel=kernel).get_response(HI)

    assert (response.text, response.model) == ("You said: hi", "scripted")
    assert response.finish_reason == "stop"
    assert response.usage_details is not None
    assert response.usage_details["total_token_count"] == 4


async def test_an_agent_runs_its_tools(kernel: Kernel, watch: EventWatcher) -> None:
    agent = Agent(AIOSChatClient(kernel=kernel), "be kind", name="writer", tools=[add])

    response = await agent.run("add 3 and 4")

    assert response.text == "The tool said: 7"
    assert [message.role for message in last_request(kernel).messages] == [
        "system", "user", "assistant", "tool",
    ]  # fmt: skip
    assert list(watch.names().values()) == ["writer"]
    assert len(watch.callers()) == 2


async def test_an_agent_streams_text_and_calls(boot: Boot, watch: EventWatcher) -> None:
    calls = [ToolCall("c1", "add", '{"a": 1, "b": 2}'), ToolCall("c2", "add", '{"a": 3, "b": 4}')]
    kernel = boot([calls, "all is done"], token_s=0.001)
    agent = Agent(AIOSChatClient(kernel=kernel), name="writer", tools=[add])

    stream = agent.run("add", stream=True)
    pieces = [update.text async for update in stream if update.text]
    response = await stream.get_final_response()

    assert len(pieces) > 1
    assert response.text.endswith("all is done")
    results = [message.content for message in last_request(kernel).messages[-2:]]
    assert results == ["3", "7"]
    assert list(watch.names().values()) == ["writer"]


async def test_usage_of_a_stream_is_counted_once(kernel: Kernel) -> None:
    stream = RawAIOSChatClient(kernel=kernel).get_response(HI, stream=True)

    response = await stream.get_final_response()

    assert response.text == "You said: hi"
    assert response.usage_details is not None
    assert response.usage_details["total_token_count"] == 4


@pytest.mark.parametrize("form", [Joke, Joke.model_json_schema()], ids=["class", "schema"])
async def test_structured_output_is_parsed(kernel: Kernel, form: Any) -> None:
    agent = Agent(AIOSChatClient(kernel=kernel), name="writer")

    response = await agent.run("a joke", options={"response_format": form})

    assert Joke.model_validate_json(response.text)
    assert form is not Joke or isinstance(response.value, Joke)


async def test_options_and_choices_reach_the_core(kernel: Kernel) -> None:
    agent = Agent(AIOSChatClient(kernel=kernel, model="scripted"), name="writer", tools=[add])

    await agent.run(
        "hm",
        options={
            "temperature": 0.5,
            "max_tokens": 7,
            "allow_multiple_tool_calls": False,
            "tool_choice": {"mode": "required", "required_function_name": "add"},
            "logit_bias": {"a": 1.0},
            "top_a": 0.1,
        },
    )

    (core,) = kernel.pool
    asked = core.requests[0]  # type: ignore[attr-defined]
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.5, 7)
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("add", False)
    assert (asked.sampling.logit_bias, asked.extra) == ({"a": 1.0}, {"top_a": 0.1})


async def test_the_frameworks_middleware_is_kept(kernel: Kernel) -> None:
    seen: list[str] = []

    class Note(ChatMiddleware):
        async def process(self, context: Any, call_next: Any) -> None:
            seen.append("before")
            await call_next()
            seen.append(context.result.text)

    await Agent(AIOSChatClient(kernel=kernel), name="writer", middleware=[Note()]).run("hi")

    assert seen == ["before", "You said: hi"]


async def test_cancelling_the_task_frees_the_slot(boot: Boot, watch: EventWatcher) -> None:
    agent = Agent(AIOSChatClient(kernel=boot(latency_s=FOREVER_S)), name="writer")
    run = asyncio.ensure_future(agent.run("hi"))
    await watch.async_wait(EventKind.DISPATCHED)

    run.cancel()

    await asyncio.wait([run])
    await watch.async_wait(EventKind.CANCELLED)


async def test_parallel_agents_are_different_agents(kernel: Kernel, watch: EventWatcher) -> None:
    client = AIOSChatClient(kernel=kernel)
    agents = [Agent(client, name=name) for name in ("ann", "bob")]

    await asyncio.gather(*(agent.run("hi") for agent in agents for _ in range(2)))

    assert sorted(watch.names()[pid] for pid in set(watch.callers())) == ["ann", "bob"]
    assert len(watch.callers()) == 4


async def test_who_calls_can_be_said_in_the_options_and_in_the_call(kernel: Kernel) -> None:
    agent = Agent(
        AIOSChatClient(kernel=kernel), name="x", default_options={"aios": {"agent": "ann"}}
    )

    await agent.run("hi")
    await agent.run("hi", client_kwargs={"aios": {"agent": "bob", "group": "ops", "priority": 3}})

    ann, bob = kernel.processes
    assert ann.name == "ann"
    assert (bob.name, bob.group.name, bob.priority) == ("bob", "ops", 3)
    assert not last_request(kernel).extra


@pytest.mark.parametrize("way", ["options", "client_kwargs"])
async def test_a_limit_that_is_spelled_wrong_does_not_vanish(kernel: Kernel, way: str) -> None:
    said: Any = {way: {"aios": {"agent": "ann", "buget": {"calls": 1}}}}

    with pytest.raises(InvalidRequest, match="buget"):
        await Agent(AIOSChatClient(kernel=kernel), name="x").run("hi", **said)


def test_an_argument_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="modle"):
        AIOSChatClient(modle="tiny")


async def test_an_error_goes_by_the_frameworks_name_too(kernel: Kernel) -> None:
    client = RawAIOSChatClient(kernel=kernel, agent="poor", budget={"calls": 1})
    await client.get_response(HI)

    with pytest.raises(BudgetExceeded) as caught:
        await client.get_response(HI)

    assert isinstance(caught.value, ChatClientException)


async def test_pictures_sound_files_and_thoughts_are_parts_of_messages(kernel: Kernel) -> None:
    said = [
        Content.from_text("see"),
        Content.from_uri("https://x.example/a.png", media_type="image/png"),
        Content.from_data(b"RIFF", media_type="audio/wav"),
        Content.from_data(b"%PDF", media_type="application/pdf"),
        Content.from_hosted_file("file-1"),
    ]
    signed = json.dumps([{"type": "thinking", "thinking": "hm", "signature": "s"}])
    thought = Content.from_text_reasoning(text="hm", protected_data=signed)

    await RawAIOSChatClient(kernel=kernel).get_response(
        [Message("user", said), Message("assistant", [thought, Content.from_text("well")]), *HI]
    )

    first, second, _ = last_request(kernel).messages
    assert first.content == "see"
    assert first.to_dict()["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {
            "type": "file",
            "file": {"filename": "file", "file_data": "data:application/pdf;base64,JVBERg=="},
        },
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    assert (second.content, second.reasoning) == ("well", "hm")
    assert [dict(one) for one in second.thinking] == json.loads(signed)


async def test_what_no_message_may_hold_is_refused_by_position_and_name(kernel: Kernel) -> None:
    strange = Content.from_hosted_vector_store("store-1")

    with pytest.raises(
        InvalidRequest, match="message 1: content of type 'hosted_vector_store'"
    ) as caught:
        await RawAIOSChatClient(kernel=kernel).get_response([*HI, Message("user", [strange])])

    assert isinstance(caught.value, ChatClientInvalidRequestException)


async def test_a_conversation_keeps_its_meaning(kernel: Kernel) -> None:
    call = Content.from_function_call("c1", "add", arguments={"a": 1})
    told = [
        Message("developer", ["be kind"]),
        Message("user", ["hi"], author_name="ann"),
        Message("assistant", [Content.from_text("hm"), call]),
        Message("tool", [Content.from_function_result("c1", result="2")]),
    ]

    await RawAIOSChatClient(kernel=kernel).get_response(told)

    assert last_request(kernel).messages == (
        KernelMessage("developer", "be kind"),
        KernelMessage("user", "hi", name="ann"),
        KernelMessage("assistant", "hm", (ToolCall("c1", "add", '{"a": 1}'),)),
        KernelMessage("tool", "2", tool_call_id="c1"),
    )


async def test_without_an_agent_it_is_the_tasks_call(
    as_default: Kernel, watch: EventWatcher
) -> None:
    await asyncio.gather(
        *(asyncio.create_task(RawAIOSChatClient().get_response(HI)) for _ in range(2))  # type: ignore[arg-type]
    )

    assert as_default is not None
    assert len(watch.names()) == 2
