"""The OpenAI format as pure functions: what servers really send, and what refusals mean."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.core import Prepared, Run
from aios_core.cores.deltas import assemble
from aios_core.cores.endpoint import event_stream
from aios_core.cores.endpoint.errors import MAX_PAUSE_S, Refusal, error_of
from aios_core.cores.endpoint.event_stream import EventReader
from aios_core.cores.openai.chunks import ChunkReader
from aios_core.cores.openai.wire import chat_body, max_prompt_tokens
from aios_core.cores.streaming import LiveRun
from aios_core.errors import ContextOverflow
from aios_core.messages import (
    Delta,
    FinishReason,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
    is_strict,
)
from aios_core.messages import parse_messages as messages
from aios_core.syscalls import LLMGenerate


def a_run(**sampling: Any) -> LiveRun:
    request = LLMGenerate(messages("hello"), sampling=Sampling(**sampling))
    return LiveRun.of(Run(7, 1, request, Prepared(10, 10)))


def reader(**sampling: Any) -> ChunkReader:
    return ChunkReader(a_run(**sampling), "m")


def chunk(*, finish: str | None = None, ids: list[int] | None = None, **delta: Any) -> Any:
    parts = [
        {
            "index": call.get("index"),
            "id": call.get("id"),
            "function": {"name": call.get("name"), "arguments": call.get("arguments")},
        }
        for call in delta.pop("calls", ())
    ]
    said = {**delta, "tool_calls": parts} if parts else delta
    choice = {"index": 0, "delta": said, "finish_reason": finish, "token_ids": ids}
    return {"choices": [choice], "usage": None}


def deltas(chunks: Iterable[Any], read: ChunkReader | None = None) -> Iterator[Delta]:
    read = read or reader()
    return (progress.delta for one in chunks for progress in read.read(one))


def test_calls_without_index_and_id_are_numbered() -> None:
    chunks = [
        chunk(calls=[{"name": "add", "arguments": '{"a":'}]),
        chunk(calls=[{"arguments": "1}"}]),
        chunk(calls=[{"name": "add", "arguments": "{}"}]),
    ]
    said = assemble(deltas(chunks))

    assert said.tool_calls == (
        ToolCall("call_7_0", "add", '{"a":1}'),
        ToolCall("call_7_1", "add", "{}"),
    )


def test_a_name_that_every_fragment_repeats_begins_one_call() -> None:
    chunks = [
        chunk(calls=[{"index": 0, "id": "x", "name": "add", "arguments": text}])
        for text in ("{", "}")
    ]
    said = assemble(deltas(chunks))

    assert said.tool_calls == (ToolCall("x", "add", "{}"),)


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, **more}


@pytest.mark.parametrize(
    ("fragments", "meant"),
    [
        (  # all at index 0, with different ids
            [call("f", "{}", index=0, id="a"), call("g", "{}", index=0, id="b")],
            [("a", "f", "{}"), ("b", "g", "{}")],
        ),
        (  # fragments of the second continue without an id
            [
                call("f", "{}", index=0, id="a"),
                call("g", "{", index=0, id="b"),
                call(None, "}", index=0),
            ],
            [("a", "f", "{}"), ("b", "g", "{}")],
        ),
        (  # equal ids, with different indexes
            [call("f", "{}", index=0, id="a"), call("g", "{}", index=1, id="a")],
            [("a", "f", "{}"), ("a", "g", "{}")],
        ),
        (  # equal ids at one index: a name after complete arguments begins another call
            [call("f", "{}", index=0, id="a"), call("f", "{}", index=0, id="a")],
            [("a", "f", "{}"), ("a", "f", "{}")],
        ),
        (  # id and name in each fragment
            [call("f", '{"a"', index=0, id="a"), call("f", ": 1}", index=0, id="a")],
            [("a", "f", '{"a": 1}')],
        ),
        (  # ids, but no index
            [call("f", "{", id="a"), call("g", "{}", id="b"), call(None, "}", id="a")],
            [("a", "f", "{}"), ("b", "g", "{}")],
        ),
        ([call("f", {"ü": 1}, index=0, id="a")], [("a", "f", '{"ü": 1}')]),
        ([call("f", None, index=3, id="a")], [("a", "f", "")]),
    ],
)
def test_every_dialect_of_tool_calls_is_understood(
    fragments: list[dict[str, Any]], meant: list[tuple[str, str, str]]
) -> None:
    streamed = assemble(deltas([chunk(calls=[one]) for one in fragments]))
    at_once = assemble(deltas([chunk(calls=fragments)]))

    assert [(c.id, c.name, c.arguments) for c in streamed.tool_calls] == meant
    assert streamed.tool_calls == at_once.tool_calls


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("max_tokens", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("eos_token", FinishReason.STOP),
    ],
)
def test_a_finish_reason_is_kept_beside_what_it_means(told: str, meant: FinishReason) -> None:
    read = reader()
    read.read(chunk(content="a", finish=told))

    assert read.is_whole
    assert read.completion().finish_reason is meant
    assert read.completion().backend_finish_reason == told


def test_thoughts_are_told_under_the_servers_key() -> None:
    for key in ("reasoning", "reasoning_content"):
        said = assemble(deltas([chunk(**{key: "h"}), chunk(**{key: "m"}), chunk(content="yes")]))

        assert said.message().to_dict() == {"role": "assistant", "content": "yes", key: "hm"}


def test_signed_thoughts_grow_by_their_index() -> None:
    first = {"index": 0, "type": "reasoning.text", "text": "h"}
    rest = {"index": 0, "type": "reasoning.text", "text": "m", "signature": "s"}
    said = assemble(deltas([chunk(reasoning_details=[first]), chunk(reasoning_details=[rest])]))

    assert said.message().to_dict()["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "hm", "signature": "s"}
    ]


def test_a_character_that_a_server_cut_in_two_is_put_together() -> None:
    said = assemble(
        deltas([chunk(content="a\ud83d"), chunk(content="\ude00b"), chunk(content="\ude00")])
    )

    assert said.text == "a\U0001f600b\ufffd"


def test_usage_is_read_with_its_details() -> None:
    read = reader()
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1},
    }
    read.read({**chunk(content="a", finish="stop"), "usage": usage})

    assert read.completion().usage == Usage(9, 5, 4, 2, 3, 1, 1)


KEYS = [
    "choices",
    "delta",
    "message",
    "content",
    "tool_calls",
    "index",
    "id",
    "function",
    "name",
    "arguments",
    "usage",
    "finish_reason",
    "logprobs",
    "reasoning",
    "text",
    "thinking_blocks",
    "prompt_tokens",
    "completion_tokens",
    "token_ids",
    "extra",
]
PARTS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
DELTAS = st.fixed_dictionaries({}, optional={"content": PARTS, "tool_calls": PARTS, "audio": PARTS})
CHUNKS = PARTS | st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"delta": DELTAS | PARTS, "index": PARTS}))}
)


@given(st.lists(CHUNKS, max_size=4))
def test_whatever_a_server_sends_is_read_or_refused_in_a_known_way(chunks: list[Any]) -> None:
    read = reader()
    said: list[Delta] = []
    with suppress(AttributeError, TypeError, ValueError, KeyError):
        for one in chunks:
            said += [progress.delta for progress in read.read(one)]
    for number in {delta.choice for delta in said}:
        assemble(delta for delta in said if delta.choice == number).message()


@given(st.lists(st.text(max_size=5), max_size=5), st.data())
def test_however_a_stream_is_cut_its_events_are_the_same(texts: list[str], data: Any) -> None:
    events = [json.dumps(text) for text in texts]
    ends = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    raw = "".join(f": ping{ends}data: {event}{ends}{ends}" for event in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    read, found = EventReader(), []
    for start, stop in itertools.pairwise([0, *cuts, len(raw)]):
        found += read.feed(raw[start:stop])
    found += read.end()

    assert [json.loads(event.data) for event in found] == texts


def test_a_byte_order_mark_hides_no_event() -> None:
    read = EventReader()

    assert [e.data for e in read.feed(b"\xef\xbb\xbfdata: 1\n\n")] == ["1"]


def test_an_event_without_end_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_CHARS", 100)
    read = EventReader()

    with pytest.raises(ValueError, match="more than 100 characters"):
        read.feed(b"data: " + b"x" * 200)


def test_tokens_whose_text_is_held_back_are_reported_with_it() -> None:
    live = a_run()
    read = ChunkReader(live, "m")

    assert read.read(chunk(content="", ids=[1])) == []
    assert live.output_ids == []
    (progress,) = read.read(chunk(content="é", ids=[2]))
    assert (progress.num_tokens, progress.delta) == (2, Delta("é"))
    assert live.output_ids == [1, 2]


def test_what_a_chunk_says_of_one_answer_is_one_delta() -> None:
    parts = chunk(content="a")["choices"] + chunk(calls=[{"name": "add"}])["choices"]
    (progress,) = reader().read({"choices": parts})

    assert progress.delta == Delta("a", (ToolCallDelta(0, "call_7_0", "add"),))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, False),
        ({"type": "object"}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "object"}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, False),
        ({"properties": {}, "additionalProperties": False, "required": 5}, False),
        ({"properties": {}, "additionalProperties": False, "required": [[]]}, False),
    ],
)
def test_strict_mode_is_asked_for_where_the_schema_allows_it(
    schema: dict[str, Any], *, expected: bool
) -> None:
    assert is_strict(schema) is expected


def test_any_json_object_may_be_asked_for() -> None:
    request = LLMGenerate(messages("hi"), response_format=ResponseFormat())
    body = chat_body(request, "m", flavor="openai", token_limit_key="max_tokens")

    assert body["response_format"] == {"type": "json_object"}


def test_a_prompt_has_at_most_one_token_for_each_byte() -> None:
    plain = LLMGenerate(messages("héllo"))
    with_tools = LLMGenerate(messages("héllo"), tools=(ToolSpec("add"),))

    assert len("héllo".encode()) < max_prompt_tokens(plain) < max_prompt_tokens(with_tools)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "999999"}, MAX_PAUSE_S),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-inf"}, 0.0),
        ({"retry-after": "31536000"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT"}, 0.0),
        ({"retry-after": "Sun Nov  6 08:49:37 1994"}, 0.0),
        ({"retry-after": "Mon, 99 Foo 9999 99:99:99 GMT"}, None),
        ({"retry-after": "1000000000"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert Refusal(429, headers, "").retry_after_s() == seconds


def test_retry_after_may_be_a_date() -> None:
    due = datetime.now(UTC) + timedelta(seconds=20)

    for written in (format_datetime(due, usegmt=True), due.isoformat(), str(due.timestamp())):
        seconds = Refusal(429, {"retry-after": written}, "").retry_after_s()
        assert seconds == pytest.approx(20, abs=2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": "x"}}, "no"),
        ({"error": "just text"}, "just text"),
        ({"object": "error", "message": "flat", "code": 400}, "flat"),
        ({"detail": "fastapi"}, "fastapi"),
        ("<html>", "<html>"),
        (None, "no message"),
    ],
)
def test_the_reason_of_a_refusal_is_found(body: object, message: str) -> None:
    assert Refusal.of(400, {}, body).message == message


def test_a_prompt_that_is_too_long_is_told_with_its_size() -> None:
    text = "This model's maximum context length is 1024 tokens, but you requested 2,003 tokens"
    refusal = Refusal(400, {}, text)
    error = error_of(refusal, core="c", model="m", models=("m",), context_window=1_024)

    assert isinstance(error, ContextOverflow)
    assert (error.num_tokens, error.context_window) == (2_003, 1_024)
