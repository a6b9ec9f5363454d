"""OpenAI's dictionaries keep their meaning on the way to the kernel and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from aios_adapters import (
    ChunkWriter,
    read_messages,
    read_options,
    read_request,
    read_response_format,
    read_tool_choice,
    write_completion,
)
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
    build_llm_request,
)
from aios_core.core import Prepared, Run
from aios_core.cores.deltas import to_deltas
from aios_core.cores.openai.chunks import ChunkReader
from aios_core.cores.streaming import LiveRun
from aios_core.errors import InvalidRequest
from aios_core.syscalls import LLMGenerate

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}


class Joke(BaseModel):
    punchline: str


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"role": "user", "content": "hi", "name": "ann"}, Message("user", "hi", name="ann")),
        ({"role": "developer", "content": "be kind"}, Message("developer", "be kind")),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]},
         Message("assistant", "", (ToolCall("c1", "add", '{"a": 1}'),))),
        ({"role": "tool", "content": "2", "tool_call_id": "c1"},
         Message("tool", "2", tool_call_id="c1")),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
         Message("user", parts=({"type": "text", "text": "a"}, {"type": "text", "text": "b"}))),
        ({"role": "user", "content": [{"type": "json", "json": {"ü": 1}}]},
         Message("user", parts=({"type": "text", "text": '{"ü": 1}'},))),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, "yes"]},
         Message("assistant", parts=({"type": "text", "text": "yes"},),
                 thinking=({"type": "thinking", "thinking": "hm"},))),
        ({"role": "user", "content": [IMAGE]}, Message("user", parts=(IMAGE,))),
        ({"role": "assistant", "content": [{"type": "tool_use", "id": "c1"}], "tool_calls": [CALL]},
         Message("assistant", "", (ToolCall("c1", "add", '{"a": 1}'),))),
    ],
)  # fmt: skip
def test_a_message_keeps_its_meaning(said: dict[str, Any], meant: Message) -> None:
    assert read_messages([said]) == [meant]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"role": "user", "content": [7]}, "int"),
        ({"role": "narrator", "content": "x"}, "narrator"),
        ({"content": "x"}, "None"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_position(said: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"message 1: .*{named}"):
        read_messages([{"role": "user", "content": "fine"}, said])


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, None),
        (False, "auto"),
        (True, "required"),
        ("any", "required"),
        ("none", "none"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "tool", "name": "add"}, "add"),
        ({"type": "any"}, "required"),
        ({"type": "allowed_tools", "tools": []}, {"type": "allowed_tools", "tools": []}),
    ],
)
def test_every_way_to_choose_a_tool_is_understood(choice: Any, meant: Any) -> None:
    assert read_tool_choice(choice, ["add"]) == meant


@pytest.mark.parametrize("choice", ["mul", {"name": "mul"}, 7])
def test_an_unknown_choice_is_refused_with_the_known_ones(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"\['add'\]"):
        read_tool_choice(choice, ["add"])


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (None, None),
        ({"type": "text"}, ResponseFormat(kind="text")),
        ({"type": "grammar", "grammar": "x"}, ResponseFormat(kind="grammar")),
        ({"type": "json_object"}, ResponseFormat()),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
         ResponseFormat({"type": "object"})),
        (Joke, ResponseFormat(Joke.model_json_schema(), "Joke")),
    ],
)  # fmt: skip
def test_every_way_to_ask_for_json_is_understood(raw: Any, meant: ResponseFormat | None) -> None:
    assert read_response_format(raw) == meant


@pytest.mark.parametrize("bad", [{"type": "object"}, {"type": "json_schema"}, "yaml", {}])
def test_an_unknown_response_format_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidRequest, match="response_format"):
        read_response_format(bad)


def test_options_go_by_the_kernels_names_and_the_wires_are_dropped() -> None:
    said = {"max_completion_tokens": 5, "timeout": 2.0, "stream": True, "top_a": 1, "seed": None}

    assert read_options(said) == ({"max_tokens": 5, "timeout_s": 2.0}, {"top_a": 1})


def test_a_whole_request_is_one_that_the_kernel_takes() -> None:
    said = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "stop": ["x"],
        "stream_options": {},
        "logit_bias": {"7": -1},
        "user": "ann",
        "n": 2,
    }

    arguments = read_request(said)
    made = build_llm_request(arguments.pop("messages"), **arguments)

    assert (made.model, made.tool_choice, made.sampling.stop) == ("m", "add", ("x",))
    assert (made.sampling.logit_bias, made.sampling.n) == ({"7": -1}, 2)
    assert made.extra == {"user": "ann"}


def completion(message: Message, reason: FinishReason) -> Completion:
    return Completion(message, reason, Usage(7, 3, 2), "m")


def test_an_answer_says_model_reason_usage_and_calls() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'),)
    said = write_completion(completion(Message("assistant", "", calls), FinishReason.TOOL_CALLS))

    assert said["choices"][0]["message"] == {
        "role": "assistant", "content": None, "tool_calls": [CALL],
    }  # fmt: skip
    assert said["choices"][0]["finish_reason"] == "tool_calls"
    assert (said["usage"]["total_tokens"], said["model"]) == (10, "m")
    assert said["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_stream_tells_its_usage_once_and_fragments_by_index() -> None:
    writer = ChunkWriter("m")
    done = completion(Message("assistant", "a"), FinishReason.STOP)
    chunks = [
        writer.delta(Delta("a")),
        writer.delta(
            Delta("", (ToolCallDelta(0, "c1", "add", "{"), ToolCallDelta(1, None, None, "}")))
        ),
        writer.end(done),
        writer.usage(done),
    ]

    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[1]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": "{"}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:3]] == [None, None, "stop"]
    assert ["usage" in chunk for chunk in chunks] == [False, False, False, True]
    assert chunks[3]["choices"] == []


def test_tools_and_formats_stay_with_the_rest_for_their_own_readers() -> None:
    said = {"tools": [TOOL], "tool_choice": "add", "response_format": {"type": "text"}, "n": 2}

    options, rest = read_options(said)

    assert options == {"n": 2}
    assert rest == {key: said[key] for key in ("tools", "tool_choice", "response_format")}


def test_what_is_written_in_openais_format_is_read_again_as_it_was() -> None:
    message = Message(
        "assistant",
        "four",
        tool_calls=(ToolCall("c1", "add", '{"a": 1}', extra={"signature": "s"}),),
        reasoning="one and three",
        thinking=({"type": "thinking", "signature": "s"},),
        refusal="no more",
        extra={"annotations": [{"url": "u"}]},
    )
    whole = Completion(
        message,
        FinishReason.TOOL_CALLS,
        Usage(9, 5, 4, 2, 3, 1, 1),
        "m",
        choices=(Choice(Message("assistant", "two"), FinishReason.LENGTH),),
        backend_finish_reason="tool_calls",
        id="chatcmpl-1",
        fingerprint="fp",
        extra={"service_tier": "flex"},
    )
    writer = ChunkWriter("m", id="chatcmpl-1")
    streamed = [
        *(writer.delta(delta) for delta in to_deltas(message)),
        writer.delta(Delta("two", choice=1)),
        writer.end(whole),
        writer.usage(whole),
    ]

    for chunks in (streamed, [write_completion(whole)]):
        live = LiveRun.of(Run(1, 1, LLMGenerate(()), Prepared(9, 9)))
        reader = ChunkReader(live, "m")
        for chunk in chunks:
            for progress in reader.read(json.loads(json.dumps(chunk))):
                if not progress.delta.choice:
                    live.answer.add(progress.delta)
        read = reader.completion()

        assert read.message == message
        assert read.all_choices[1].message.content == "two"
        assert read.all_choices[1].finish_reason is FinishReason.LENGTH
        assert (read.id, read.fingerprint, read.usage) == ("chatcmpl-1", "fp", whole.usage)
        assert read.extra == {"service_tier": "flex"}
