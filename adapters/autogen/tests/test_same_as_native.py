"""The kernel sends the requests of OpenAI's clients as their provider would get them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from agent_framework import Content, Message, tool
from agent_framework.openai import OpenAIChatClient as ResponsesClient
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from autogen import OpenAIWrapper
from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    SystemMessage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import (
    AzureOpenAIChatCompletionClient,
)
from PIL import Image as Picture
from pydantic import BaseModel

from aios_core.testing.stub_server import Answer, Raw, StubServer

from .clients import HI, MODEL, client_of, sent


class Joke(BaseModel):
    setup: str
    punchline: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


CONVERSATION = [
    SystemMessage(content="be kind"),
    UserMessage(content=["see", Image(Picture.new("RGB", (1, 1)))], source="ann"),
    AssistantMessage(
        content=[FunctionCall(id="c1", name="add", arguments='{"a":1,"b":2}')], source="bot"
    ),
    FunctionExecutionResultMessage(
        content=[FunctionExecutionResult(content="3", name="add", call_id="c1")]
    ),
    UserMessage(content="again", source="ann"),
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3, "top_p": 0.9, "max_tokens": 17, "seed": 3, "stop": ["x"]},
    {"frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"50256": -100}},
    {"user": "u-1", "parallel_tool_calls": False, "reasoning_effort": "low"},
]
EXTRA: list[dict[str, Any]] = [
    {},
    {"logprobs": True, "top_logprobs": 2, "service_tier": "flex", "metadata": {"a": "b"}},
    {"extra_body": {"guided_choice": ["a"], "temperature": 0.1}, "store": True},
    {"max_completion_tokens": 9},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("extra", EXTRA)
async def test_autogens_request_is_the_providers(
    settings: dict[str, Any],
    extra: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    native, behind = provider(), provider()
    asked: dict[str, Any] = {
        "tools": [FunctionTool(add, "Add.", name="add", strict=True)],
        "extra_create_args": extra,
    }
    await client_of(native, **settings).create(CONVERSATION, **asked)

    substituted(behind)
    await client_of(native, **settings).create(CONVERSATION, **asked)

    assert sent(behind) == sent(native)
    assert len(native.exchanges) == 1


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_a_strict_format_and_a_chosen_tool_are_the_providers(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    joke = Answer('{"setup": "a", "punchline": "b"}')
    native, behind = provider(joke), provider(joke)
    tool = FunctionTool(add, "Add.", name="add")

    async def ask() -> list[dict[str, Any]]:
        client, bodies = client_of(native), []
        for asked in ({"json_output": Joke}, {"json_output": True}, {"tool_choice": tool}):
            await client.create(HI, tools=[tool] if "tool_choice" in asked else [], **asked)  # type: ignore[arg-type]
            bodies.append(sent(behind if behind.exchanges else native))
        return bodies

    wanted = await ask()
    substituted(behind)

    assert await ask() == wanted


async def test_a_stream_of_autogens_is_the_same_to_its_reader(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    native, behind = provider(), provider()

    async def ask() -> list[str | CreateResult]:
        stream: AsyncGenerator[Any] = client_of(native).create_stream(HI, include_usage=True)
        return [item async for item in stream]

    wanted = await ask()
    substituted(behind)

    assert await ask() == wanted
    assert sent(behind) == sent(native)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.2, "seed": 1, "stop": ["x"], "max_tokens": 5, "user": "u"},
        {"frequency_penalty": 0.1, "logit_bias": {"1": 2}, "store": True, "metadata": {"a": "b"}},
        {"response_format": Joke},
    ],
)
async def test_agent_frameworks_request_is_the_providers(
    options: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    joke = Answer('{"setup": "a", "punchline": "b"}')
    native, behind = provider(joke), provider(joke)
    picture = Content.from_uri("https://x.example/a.png", media_type="image/png")
    said = [
        Message("system", ["be kind"]),
        Message("user", ["see", picture], author_name="ann"),
    ]

    async def ask() -> None:
        client = FrameworkClient(model=MODEL, base_url=native.base_url, api_key="k")
        await client.get_response(said, options=options)

    await ask()
    substituted(behind)
    await ask()

    assert sent(behind) == sent(native)
    assert len(native.exchanges) == 1


def test_classics_request_is_the_providers(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    native, behind = provider(), provider()
    entry = {
        "model": MODEL,
        "api_key": "k",
        "base_url": native.base_url,
        "temperature": 0.4,
        "seed": 2,
        "user": "u",
        "reasoning_effort": "low",
    }

    def ask() -> None:
        wrapper = OpenAIWrapper(config_list=[entry], cache_seed=None)
        wrapper.create(messages=[{"role": "user", "content": "hi", "name": "ann"}], top_p=0.5)

    ask()
    substituted(behind)
    ask()

    assert sent(behind) == sent(native)
    assert len(native.exchanges) == 1


async def test_azures_client_needs_no_credentials(
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    behind = provider()
    substituted(behind)

    result = await AzureOpenAIChatCompletionClient(model=MODEL, temperature=0.5).create(HI)

    assert str(result.content).strip() == "one two"
    assert sent(behind)["temperature"] == 0.5


async def test_what_cannot_be_kept_is_named_once(
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    behind = provider()
    substituted(behind)
    client = client_of(behind, default_headers={"X-Team": "a"}, organization="org")

    for _ in range(2):
        await client.create(HI)

    assert caplog.text.count("header 'x-team'") == 1
    assert caplog.text.count("header 'openai-organization'") == 1


MESSAGE = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
TOKEN = {"token": "4", "logprob": -0.1, "bytes": [52]}
LOGPROBS = {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": LOGPROBS}
ABOUT = {"id": "1", "created": 0, "model": MODEL}
USED = {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}


def whole() -> Raw:
    answer = {**ABOUT, "object": "chat.completion", "choices": [{**CHOICE, "message": MESSAGE}]}
    return Raw(json.dumps(answer | USED).encode(), "application/json")


def streamed() -> Raw:
    about = {**ABOUT, "object": "chat.completion.chunk"}
    chunks = [
        {**about, "choices": [{**CHOICE, "delta": MESSAGE}]},
        {**about, "choices": [], **USED},
    ]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return Raw(f"{events}data: [DONE]\n\n".encode())


async def test_reasoning_and_log_probabilities_come_back_as_natively(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    native, behind = provider(whole()), provider(streamed())

    wanted = await client_of(native).create(HI)
    substituted(behind)
    result = await client_of(native).create(HI)

    assert wanted.thought == "2 and 2"
    assert result == wanted


# --- the Responses API: the same options under the names of a chat completion --------------------

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": MODEL,
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "one two", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3,
    },
}


def responses() -> Raw:
    return Raw(json.dumps(RESPONSE).encode(), "application/json")


_SPOKEN = {"name", "description", "parameters"}


def as_completion(body: dict[str, Any]) -> dict[str, Any]:
    """The options of a request to `/responses` as a chat completion has them."""
    names = {"max_output_tokens": "max_completion_tokens"}
    unlike = {"input", "instructions", "include", "truncation", "reasoning", "text", "tools"}
    unlike |= {"stream", *(key for key, value in body.items() if value is None)}
    told = {names.get(key, key): value for key, value in body.items() if key not in unlike}
    if not told.get("store"):
        told.pop("store", None)
    if "top_logprobs" in told:
        told["logprobs"] = True
    if effort := (body.get("reasoning") or {}).get("effort"):
        told["reasoning_effort"] = effort
    text = dict(body.get("text") or {})
    if form := text.pop("format", None):
        inside = {key: value for key, value in form.items() if key != "type"}
        told["response_format"] = {"type": form["type"], "json_schema": inside}
    if tools := body.get("tools"):
        told["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k in _SPOKEN}}
            for tool in tools
        ]
        assert not any(tool["strict"] for tool in tools), "as a chat completion has it unsaid"
    return {**told, **text}


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.2, "max_tokens": 5, "user": "u", "metadata": {"a": "b"}},
        {"store": True, "service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "s"},
        {"reasoning": {"effort": "low"}, "verbosity": "low", "top_p": 0.5},
        {"top_logprobs": 2, "instructions": "be kind"},
        {"tools": [multiply], "tool_choice": "required", "allow_multiple_tool_calls": False},
    ],
)
async def test_agent_frameworks_request_to_the_responses_api_says_all_that_its_provider_would_get(
    options: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    native, behind = provider(responses()), provider()

    async def ask() -> str:
        client = ResponsesClient(model=MODEL, base_url=native.base_url, api_key="k")
        answer = await client.get_response([Message("user", ["hi"])], options=dict(options))
        return answer.text.strip()

    assert await ask() == "one two"
    substituted(behind)
    assert await ask() == "one two"

    told, wanted = sent(behind), as_completion(native.exchanges[0].body)
    assert [message["role"] for message in told.pop("messages")][-1] == "user"
    assert told == wanted
    assert len(native.exchanges) == 1


async def test_only_the_tools_that_a_choice_allows_are_offered(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    behind = provider()
    substituted(behind)

    @tool
    def divide(a: int, b: int) -> int:
        """Divide two numbers."""
        return a // b

    choice = {"mode": "auto", "allowed_tools": ["multiply"]}
    options: Any = {"tools": [multiply, divide], "tool_choice": choice}
    client = ResponsesClient(model=MODEL, api_key="k")
    await client.get_response([Message("user", ["hi"])], options=options)

    assert [one["function"]["name"] for one in sent(behind)["tools"]] == ["multiply"]


async def test_what_only_the_responses_api_has_is_named_once(
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    substituted(provider())
    client = ResponsesClient(model=MODEL, api_key="k")
    options: Any = {"truncation": "auto", "reasoning": {"summary": "auto"}}

    for _ in range(2):
        await client.get_response([Message("user", ["hi"])], options=options)

    named = [caplog.text.count(f"option '{one}'") for one in ("truncation", "reasoning.summary")]
    assert named == [1, 1]
