"""The OpenAI format as pure functions: what servers really send, and what refusals mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from aios_core.core import Prepared, Run
from aios_core.cores.assembly import assemble
from aios_core.cores.openai_chunks import ChunkReader
from aios_core.cores.openai_errors import MAX_PAUSE_S, Refusal, error_of
from aios_core.cores.openai_wire import chat_body, max_prompt_tokens
from aios_core.cores.streaming import LiveRun
from aios_core.cores.vllm_metrics import KVPressure, read_pressure
from aios_core.errors import ContextOverflow
from aios_core.messages import (
    Delta,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
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
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert Refusal(429, headers, "").retry_after_s() == seconds


def test_retry_after_may_be_a_date() -> None:
    due = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)

    assert Refusal(429, {"retry-after": due}, "").retry_after_s() == pytest.approx(20, abs=2)


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


# --- metrics ----------------------------------------------------------------------------------


def test_memory_of_several_engines_is_summed() -> None:
    page = (
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.5\n'
        'vllm:kv_cache_usage_perc{engine="1"} 0.25\n'
    )

    assert read_pressure(page) == KVPressure(1_200, 3_200)


@pytest.mark.parametrize("page", ["", "garbage", "vllm:kv_cache_usage_perc{} 0.5\n"])
def test_a_page_that_does_not_say_gives_no_pressure(page: str) -> None:
    assert read_pressure(page) == KVPressure()
