"""Messages, tools and answers keep their meaning on the way to the kernel and back."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool

from aios_adapters import read_tool_choice
from aios_core import (
    Choice,
    Completion,
    Delta,
    FinishReason,
    Message,
    ResponseFormat,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from aios_core.errors import InvalidRequest
from langchain_aios.translation import (
    to_chunk,
    to_last_chunk,
    to_messages,
    to_response_format,
    to_result,
    to_tools,
)

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (HumanMessage("hi", name="ann"), Message("user", "hi", name="ann")),
        (SystemMessage("be kind"), Message("system", "be kind")),
        (ChatMessage("hm", role="developer"), Message("developer", "hm")),
        (AIMessage("well"), Message("assistant", "well")),
        (
            AIMessage("", tool_calls=[CALL]),
            Message("assistant", "", (ToolCall("c1", "add", '{"a": 1}'),)),
        ),
        (
            ToolMessage("2", tool_call_id="c1", name="add"),
            Message("tool", "2", tool_call_id="c1", name="add"),
        ),
        (HumanMessage([{"type": "text", "text": "a"}, "b"]), Message("user", "ab")),
        (
            AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]),
            Message("assistant", "yes", thinking=({"type": "thinking", "thinking": "hm"},)),
        ),
        (
            HumanMessage(["see", PICTURE]),
            Message("user", parts=({"type": "text", "text": "see"}, PICTURE)),
        ),
        (
            HumanMessage([{"type": "image", "base64": "eA==", "mime_type": "image/png"}]),
            Message("user", parts=(PICTURE,)),
        ),
        (
            HumanMessage(
                [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "eA=="},
                    }
                ]
            ),
            Message("user", parts=(PICTURE,)),
        ),
        (
            HumanMessage([{"type": "audio", "base64": "eA==", "mime_type": "audio/wav"}]),
            Message(
                "user",
                parts=({"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}},),
            ),
        ),
        (
            ToolMessage([PICTURE], tool_call_id="c1"),
            Message("tool", parts=(PICTURE,), tool_call_id="c1"),
        ),
        (
            AIMessage(
                "no",
                name="bob",
                additional_kwargs={
                    "reasoning_content": "hm",
                    "refusal": "no",
                    "audio": {"id": "a1", "data": "x"},
                },
            ),
            Message(
                "assistant",
                "no",
                name="bob",
                reasoning="hm",
                refusal="no",
                extra={"audio": {"id": "a1"}},
            ),
        ),
        (
            SystemMessage("be kind", additional_kwargs={"__openai_role__": "developer"}),
            Message("developer", "be kind"),
        ),
        (
            AIMessage([{"type": "tool_use", "id": "c1", "name": "add", "input": {}}, "so"]),
            Message("assistant", "so"),
        ),
        (
            ToolMessage([{"type": "json", "json": {"ü": 1}}], tool_call_id="c1"),
            Message("tool", '{"ü": 1}', tool_call_id="c1"),
        ),
    ],
)
def test_a_message_keeps_its_meaning(said: BaseMessage, meant: Message) -> None:
    assert to_messages([said]) == [meant]


def test_a_call_with_broken_arguments_is_told_again_as_it_was() -> None:
    broken = {"name": "add", "args": '{"a": ', "id": "c1", "error": None}
    message = AIMessage("", invalid_tool_calls=[{"type": "invalid_tool_call", **broken}])

    assert to_messages([message])[0].tool_calls == (ToolCall("c1", "add", '{"a": '),)


def test_tool_results_inside_a_persons_turn_become_turns_of_the_tools() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "2"}],
    }
    turn = HumanMessage([result, {"type": "text", "text": "and now?"}])

    assert to_messages([turn]) == [
        Message("tool", "2", tool_call_id="c1"),
        Message("user", "and now?"),
    ]


def test_arguments_keep_their_letters() -> None:
    call = {**CALL, "args": {"name": "你好"}}

    assert "你好" in to_messages([AIMessage("", tool_calls=[call])])[0].tool_calls[0].arguments


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (HumanMessage([{"type": "video", "base64": "x", "mime_type": "video/mp4"}]), "video"),
        (HumanMessage([{"type": "file", "base64": "x"}]), "file"),
        (ChatMessage("x", role="narrator"), "narrator"),
        (FunctionMessage("x", name="f"), "FunctionMessage"),
    ],
)
def test_what_the_kernel_cannot_carry_is_refused_by_position_and_name(
    said: BaseMessage, named: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"message 1: .*{named}"):
        to_messages([HumanMessage("fine"), said])


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, None),
        (False, "auto"),
        ("auto", "auto"),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ("none", "none"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "tool", "name": "add"}, "add"),
        ({"type": "any"}, "required"),
    ],
)
def test_every_way_to_choose_a_tool_is_understood(choice: Any, meant: str) -> None:
    assert read_tool_choice(choice, ["add", "sub"]) == meant


def test_an_unknown_choice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'mul'.*\['add', 'sub'\]"):
        read_tool_choice("mul", ["add", "sub"])


def test_a_function_becomes_a_tool_with_a_schema() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    (spec,) = to_tools([add])

    assert (spec.name, spec.description) == ("add", "Add two numbers.")
    assert spec.parameters["required"] == ["a", "b"]


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (None, None),
        ({"type": "text"}, ResponseFormat(kind="text")),
        ({"type": "json_object"}, ResponseFormat()),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            ResponseFormat({"type": "object"}, "n"),
        ),
        (
            {"title": "Joke", "type": "object", "properties": {"a": {"type": "string"}}},
            ResponseFormat({"type": "object", "properties": {"a": {"type": "string"}}}, "Joke"),
        ),
    ],
)
def test_every_way_to_ask_for_json_is_understood(raw: Any, meant: ResponseFormat | None) -> None:
    assert to_response_format(raw) == meant


def test_an_unknown_response_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="response_format"):
        to_response_format(7)


def completion(message: Message, reason: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(message, reason, Usage(7, 3, 2), "m")


def test_an_answer_says_model_reason_and_usage() -> None:
    result = to_result(completion(Message("assistant", "yes")))
    message = result.generations[0].message

    assert isinstance(message, AIMessage)
    assert message.content == "yes"
    assert message.response_metadata["model_name"] == "m"
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata == {
        "input_tokens": 7,
        "output_tokens": 3,
        "total_tokens": 10,
        "input_token_details": {"cache_read": 2},
    }


def test_an_answer_keeps_thoughts_details_and_further_answers() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = Message(
        "assistant", "yes", reasoning="hm", thinking=(block,), extra={"annotations": [{"a": 1}]}
    )
    usage = Usage(7, 9, 2, cache_write_tokens=3, reasoning_tokens=4, audio_output_tokens=1)
    other = Choice(Message("assistant", "no"), FinishReason.LENGTH)
    whole = Completion(
        said,
        FinishReason.STOP,
        usage,
        "m",
        choices=(other,),
        logprobs={"content": []},
        backend_finish_reason="eos",
        id="x-1",
        fingerprint="fp",
    )

    first, second = to_result(whole).generations

    message = first.message
    assert isinstance(message, AIMessage)
    assert message.additional_kwargs == {
        "reasoning_content": "hm",
        "thinking_blocks": [block],
        "annotations": [{"a": 1}],
    }
    assert message.response_metadata["native_finish_reason"] == "eos"
    assert (message.response_metadata["id"], message.response_metadata["system_fingerprint"]) == (
        "x-1",
        "fp",
    )
    assert first.generation_info == {"finish_reason": "stop", "logprobs": {"content": []}}
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_token_details"] == {"reasoning": 4, "audio": 1}
    assert message.usage_metadata["input_token_details"] == {"cache_read": 2, "cache_creation": 3}
    assert (second.text, second.message.response_metadata["finish_reason"]) == ("no", "length")


def test_what_a_stream_thinks_comes_as_it_is_thought() -> None:
    deltas = [
        Delta(reasoning="hm "),
        Delta(reasoning="well"),
        Delta("yes", logprobs={"content": [1]}),
    ]
    chunks = [to_chunk(delta).message for delta in deltas]
    said = Message("assistant", "yes", thinking=({"signature": "s"},))
    whole = sum(chunks[1:], chunks[0]) + to_last_chunk(completion(said)).message

    assert whole.additional_kwargs == {
        "reasoning_content": "hm well",
        "thinking_blocks": [{"signature": "s"}],
    }


def test_broken_arguments_make_an_invalid_tool_call_beside_the_good_ones() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", '{"a":'))
    message = to_result(completion(Message("assistant", "", calls))).generations[0].message

    assert isinstance(message, AIMessage)
    assert [call["id"] for call in message.tool_calls] == ["c1"]
    assert [(call["id"], call["args"]) for call in message.invalid_tool_calls] == [("c2", '{"a":')]


def test_fragments_of_two_calls_do_not_mix() -> None:
    deltas = [
        Delta("on it"),
        Delta("", (ToolCallDelta(0, "c1", "add", '{"a"'),)),
        Delta("", (ToolCallDelta(1, "c2", "sub", '{"b"'),)),
        Delta("", (ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(1, arguments=": 2}"))),
    ]
    chunks = [to_chunk(delta).message for delta in deltas]
    chunks.append(to_last_chunk(completion(Message("assistant", "on it"))).message)
    whole = sum(chunks[1:], chunks[0])

    assert isinstance(whole, AIMessageChunk)
    assert [(c["id"], c["name"], c["args"]) for c in whole.tool_calls] == [
        ("c1", "add", {"a": 1}),
        ("c2", "sub", {"b": 2}),
    ]
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 10, "usage appears once"
