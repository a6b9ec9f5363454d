"""A substituted model asks for what it would ask its provider, and reads answers as it would.

The same program runs twice: natively on one stub server, and substituted on a kernel with
another stub server behind it. The bodies and the answers are compared field by field.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import openai
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langchain_openai import (
    AzureChatOpenAI,
    AzureOpenAI,
    AzureOpenAIEmbeddings,
    ChatOpenAI,
    OpenAI,
    OpenAIEmbeddings,
)
from pydantic import BaseModel, Field

from aios_core import set_default_kernel
from aios_core.launch import install, uninstall
from aios_core.testing.stub_server import Answer, Raw
from langchain_aios import ChatAIOS
from langchain_aios.openai_calls import seconds_of

from .sides import Sides


def require_same_bodies(sides: Sides, *, besides: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    native, behind = sides.bodies()
    assert native
    shown = [{k: v for k, v in body.items() if k not in besides} for body in behind]
    # The kernel sends the limit that it reserved; a program that sets none sends none.
    for theirs, ours in zip(native, shown, strict=True):
        if "max_tokens" not in theirs:
            ours.pop("max_tokens", None)
    assert shown == native


@tool(parse_docstring=True)
def weather(city: str, unit: str = "C") -> str:
    """Weather for a place.

    Args:
        city: which place.
        unit: of the temperature.
    """
    return f"4 {unit} in {city}"


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="the beginning")
    punchline: str


PICTURE: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
TALK: Final = [
    SystemMessage("be kind"),
    HumanMessage("hi", name="ann"),
    AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Ö"}, "id": "c1"}], name="bob"),
    ToolMessage("4 C", tool_call_id="c1"),
    HumanMessage([{"type": "text", "text": "and this?"}, PICTURE]),
    AIMessage("a picture"),
    HumanMessage(""),
]

# --- arguments of the constructor ------------------------------------------------------------


@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "seed": 7},
        {"stop": ["END"]},
        {"stop_sequences": ["A", "B"]},
        {"frequency_penalty": 0.5, "presence_penalty": -0.5},
        {"logprobs": True, "top_logprobs": 3},
        {"logit_bias": {50256: -100}},
        {"n": 2},
        {"reasoning_effort": "low", "verbosity": "low"},
        {"service_tier": "flex"},
        {"store": True},
        {"max_tokens": 9},
        {"max_completion_tokens": 9},
        {"extra_body": {"user": "ann", "top_k": 5, "min_p": 0.1, "template_kwargs": {"a": 1}}},
        {
            "model_kwargs": {
                "user": "ann",
                "prediction": {"type": "content"},
            }
        },
        {"model_kwargs": {"safety_identifier": "s", "prompt_cache_key": "p"}},
        {"disabled_params": {"parallel_tool_calls": None}},
        {"extra_body": {"repetition_penalty": 1.1, "reasoning": {"effort": "low"}}},
    ],
    ids=str,
)
def test_every_field_of_the_constructor_is_asked_for(
    sides: Callable[..., Sides], settings: dict[str, Any], how: str
) -> None:
    if how == "stream" and "n" in settings:
        pytest.skip("langchain_openai streams one answer")
    both = sides()

    both.run(lambda _: list(getattr(both.llm(**settings), how)("hi")))

    require_same_bodies(both)


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 0.1, "max_tokens": 5, "stop": ["X"]},
        {"user": "ann", "service_tier": "flex"},
        {"extra_body": {"user": "ann"}, "logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
    ],
    ids=str,
)
def test_every_argument_of_a_call_is_asked_for(
    sides: Callable[..., Sides], said: dict[str, Any]
) -> None:
    both = sides(Answer("{}"))

    both.run(lambda _: both.llm().invoke("hi", **said))

    require_same_bodies(both)


@pytest.mark.parametrize(
    "bound",
    [
        {},
        {"strict": True},
        {"parallel_tool_calls": False},
        {"tool_choice": "any"},
        {"tool_choice": "weather"},
        {"tool_choice": "none"},
    ],
    ids=str,
)
def test_tools_are_offered_as_they_are_written(
    sides: Callable[..., Sides], bound: dict[str, Any]
) -> None:
    both = sides()

    both.run(lambda _: both.llm().bind_tools([weather], **bound).invoke("hi"))

    require_same_bodies(both)


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
def test_a_wanted_object_is_asked_for_as_it_is_written(
    sides: Callable[..., Sides], method: Any, strict: bool | None, schema: Any
) -> None:
    if method == "json_mode" and strict:
        pytest.skip("json_mode has no strict")
    both = sides(Answer('{"setup": "a", "punchline": "b"}'))

    native, ours = both.run(
        lambda _: (
            both.llm().with_structured_output(schema, method=method, strict=strict).invoke("j")
        )
    )

    require_same_bodies(both)
    assert ours == native


def test_messages_keep_names_pictures_and_null_content(sides: Callable[..., Sides]) -> None:
    both = sides()

    both.run(lambda _: both.llm().invoke(TALK))

    require_same_bodies(both)


def test_what_concerns_the_connection_is_named_once(
    sides: Callable[..., Sides], caplog: pytest.LogCaptureFixture
) -> None:
    both = sides()
    llm = both.llm(default_headers={"X-Team": "a"}, max_retries=3)

    both.run(lambda _: [llm.invoke("hi") for _ in range(2)])

    assert caplog.text.count("do not use base_url, default_headers, max_retries") == 1


@pytest.mark.parametrize("timeout", [30, 30.0, (5, 30), httpx.Timeout(30, connect=5)], ids=str)
def test_a_timeout_is_the_kernels(sides: Callable[..., Sides], timeout: Any) -> None:
    both = sides()

    both.run(lambda _: both.llm(timeout=timeout).invoke("hi"))

    require_same_bodies(both)
    assert seconds_of(timeout) == 30.0


# --- without credentials -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: AzureChatOpenAI(azure_deployment="gpt").invoke("hi").text,
        lambda: "".join(c.text for c in AzureChatOpenAI(azure_deployment="gpt").stream("hi")),
        lambda: asyncio.run(AzureChatOpenAI(azure_deployment="gpt").ainvoke("hi")).text,
        lambda: AzureOpenAI(azure_deployment="gpt").invoke("hi"),
        lambda: OpenAI().invoke("hi"),
        lambda: ChatOpenAI(model="gpt").invoke("hi").text,
    ],
)
@pytest.mark.usefixtures("as_default")
def test_no_credentials_are_needed(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OPENAI_API_VERSION", raising=False)
    install("langchain")

    try:
        assert make() == "You said: hi"
    finally:
        uninstall()


@pytest.mark.usefixtures("as_default")
def test_no_embedding_needs_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    install("langchain")

    try:
        one, other = (
            kind(model="text-embedding-3-small").embed_query("a dog")
            for kind in (OpenAIEmbeddings, AzureOpenAIEmbeddings)
        )
    finally:
        uninstall()

    assert one == other


# --- answers -------------------------------------------------------------------------------------

CALL: Final = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def whole(*choices: dict[str, Any], **more: Any) -> Raw:
    """An answer with everything, as a stream: the kernel always asks for one."""
    lines = [
        {"index": i, "delta": choice["message"], "finish_reason": None, **_but(choice)}
        for i, choice in enumerate(choices)
    ]
    ends = [{"index": i, "delta": {}, "finish_reason": c["end"]} for i, c in enumerate(choices)]
    about = {"id": "x-1", "object": "chat.completion.chunk", "created": 1, "model": "stub", **more}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    chunks = [
        {**about, "choices": lines},
        {**about, "choices": ends},
        {**about, "choices": [], "usage": usage},
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return Raw(body.encode())


def _but(choice: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choice.items() if key not in ("message", "end")}


LOGPROBS: Final = {
    "content": [{"token": "yes", "logprob": -0.1, "bytes": [1], "top_logprobs": []}],
    "refusal": None,
}


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": "yes"}, "end": "stop"},
        {"message": {"content": "yes"}, "end": "stop", "logprobs": LOGPROBS},
        {"message": {"content": "cut"}, "end": "content_filter"},
        {"message": {"content": "cut"}, "end": "length"},
    ],
    ids=str,
)
def test_a_stream_is_read_as_it_is_natively(
    sides: Callable[..., Sides], choice: dict[str, Any]
) -> None:
    both = sides(whole(choice, system_fingerprint="fp"))

    native, ours = both.run(
        lambda _: sum(list(both.llm(stream_usage=True, logprobs=True).stream("hi"))[1:], _first())
    )

    assert ours.content == native.content
    assert ours.usage_metadata["total_tokens"] == native.usage_metadata["total_tokens"] == 8
    for key in ("finish_reason", "logprobs", "model_name", "system_fingerprint"):
        assert ours.response_metadata.get(key) == native.response_metadata.get(key), key


def _first() -> Any:
    return AIMessageChunk(content="")


@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize("ours", [False, True], ids=["substituted", "ChatAIOS"])
def test_thoughts_and_refusals_reach_the_program(
    sides: Callable[..., Sides], how: str, ours: bool
) -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    said = {"reasoning_content": "hm", "refusal": "no", "thinking_blocks": blocks}
    both = sides(whole({"message": {"content": "", **said}, "end": "stop"}))

    def ask(_: Any) -> Any:
        llm = ChatAIOS(kernel=both.kernel) if ours else both.llm()
        if how == "invoke":
            return llm.invoke("hi")
        return sum(llm.stream("hi"), _first())

    _, answer = both.run(ask)

    assert answer.additional_kwargs["reasoning_content"] == "hm"
    assert answer.additional_kwargs["refusal"] == "no" or (how == "stream" and not ours)
    assert answer.additional_kwargs["thinking_blocks"] == blocks


def test_several_answers_are_one_syscall(sides: Callable[..., Sides]) -> None:
    both = sides(
        whole(
            {"message": {"content": "one"}, "end": "stop"},
            {"message": {"content": "two"}, "end": "length"},
        )
    )
    install("langchain")
    former = set_default_kernel(both.kernel)
    try:
        result = both.llm(n=2).generate([[HumanMessage("hi")]])
    finally:
        set_default_kernel(former)
        uninstall()

    assert [one.text for one in result.generations[0]] == ["one", "two"]
    assert len(both.behind.exchanges) == 1


@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("length", openai.LengthFinishReasonError),
        ("content_filter", openai.ContentFilterFinishReasonError),
    ],
)
def test_an_object_that_cannot_be_there_is_openais_error(
    sides: Callable[..., Sides], end: str, kind: type[Exception], how: str
) -> None:
    both = sides(whole({"message": {"content": '{"setup": '}, "end": end}))
    llm = both.llm()

    native, ours = both.run(lambda _: list(getattr(llm.with_structured_output(Joke), how)("j")))

    assert type(ours) is (kind if how == "invoke" else type(native))
