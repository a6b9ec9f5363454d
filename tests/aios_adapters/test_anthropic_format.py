"""Anthropic's Messages API as the kernel reads and writes it for adapters."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from aios_adapters.anthropic_answers import MessageEventWriter, as_event, write_message
from aios_adapters.anthropic_errors import as_anthropic_error, as_message_error
from aios_adapters.anthropic_format import read_betas, read_message_request
from aios_core import errors
from aios_core.cores.anthropic.answer_format import FREE
from aios_core.cores.anthropic.client_library import http
from aios_core.cores.anthropic.wire import message_body
from aios_core.cores.deltas import to_deltas
from aios_core.kernel.llm import build_llm_request
from aios_core.messages import Completion, Delta, FinishReason, Message, ToolCall, Usage

REQUEST = http.Request("POST", "http://kernel.invalid/v1/messages")
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "s"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
MESSAGES: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "eA=="},
            },
            {"type": "document", "source": {"type": "file", "file_id": "file_1"}, "title": "a"},
        ],
    },
    {"role": "assistant", "content": [SIGNED, {"type": "text", "text": "Two:"}, CALL]},
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "3", "is_error": True}
        ],
    },
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}, SIGNED, {"type": "text", "text": "b"}],
    },
]
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 99,
    "system": [{"type": "text", "text": "be kind"}],
    "messages": MESSAGES,
    "tools": [
        {"name": "add", "description": "Add.", "input_schema": {"type": "object"}, "strict": True},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "stop_sequences": ["X"],
    "temperature": 0.5,
    "thinking": {"type": "disabled"},
}


def rewritten(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body that a core sends for a request that was read from another one."""
    request = build_llm_request(**read_message_request(body))
    written = message_body(request, "m", max_tokens=99, form=FREE, cache_time=None)
    del written["stream"]
    return written


def test_a_core_sends_the_body_that_an_adapter_read() -> None:
    assert rewritten(BODY) == BODY


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"messages": [{"role": "robot", "content": "hi"}]}, "message 0: role"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "message 0: content block"),
        ({"messages": ["hi"]}, "message 0: got 'hi'"),
        ({"messages": [], "output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"messages": [], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ],
)
def test_what_is_malformed_is_named(body: dict[str, Any], what: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        read_message_request(body)

    assert what in str(caught.value)


def test_the_names_of_beta_features_are_read() -> None:
    assert list(read_betas("a, b,,c")) == ["a", "b", "c"]
    assert list(read_betas(None)) == []


# --- answers --------------------------------------------------------------------------------------


def completion(message: Message, reason: FinishReason, **fields: Any) -> Completion:
    return Completion(message, reason, Usage(9, 5, 4, 3), "m", **fields)


def events_of(message: Message, reason: FinishReason) -> list[dict[str, Any]]:
    """Return the events of an answer that streams word by word."""
    writer = MessageEventWriter("m")
    events = list(writer.begin())
    for delta in to_deltas(message):
        events += writer.delta(delta)
    return [*events, *writer.end(completion(message, reason))]


def joined(events: list[dict[str, Any]]) -> anthropic.types.Message:
    """Return the message that Anthropic's own client makes of the events."""

    def respond(_: Any) -> Any:
        body = b"".join(map(as_event, events))
        return http.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    client = http.Client(transport=http.MockTransport(respond))
    theirs = anthropic.Anthropic(api_key="k", base_url="http://x", http_client=client)
    asked: Any = [{"role": "user", "content": "hi"}]
    with theirs.messages.stream(model="m", max_tokens=9, messages=asked) as stream:
        return stream.get_final_message()


ANSWERS = [
    Message("assistant", "one two"),
    Message(
        "assistant",
        "see",
        reasoning="hm",
        tool_calls=(ToolCall("a", "add", '{"a": 1}'), ToolCall("b", "now", "{}")),
    ),
    Message(
        "assistant",
        "",
        thinking=({**SIGNED, "index": 0}, {"type": "redacted_thinking", "data": "x"}),
    ),
    Message("assistant", "ä🦊 b"),
]


@pytest.mark.parametrize("message", ANSWERS)
def test_a_streamed_answer_is_the_whole_one_to_anthropics_client(message: Message) -> None:
    calls = FinishReason.TOOL_CALLS if message.tool_calls else FinishReason.STOP
    whole = write_message(completion(message, calls))

    streamed = joined(events_of(message, calls)).model_dump(exclude_none=True)

    contents = [{k: v for k, v in block.items() if v is not None} for block in streamed["content"]]
    assert contents == whole["content"]
    assert streamed["stop_reason"] == whole["stop_reason"]
    assert streamed["usage"]["output_tokens"] == 5


def test_cached_tokens_are_counted_apart() -> None:
    usage = write_message(completion(ANSWERS[0], FinishReason.STOP))["usage"]

    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (2, 4)
    assert usage["cache_creation_input_tokens"] == 3


@pytest.mark.parametrize(
    ("reason", "backend", "stop"),
    [
        (FinishReason.STOP, "pause_turn", "pause_turn"),
        (FinishReason.STOP, "stop", "end_turn"),
        (FinishReason.LENGTH, "end_turn", "max_tokens"),  # the kernel cut it
        (FinishReason.CONTENT_FILTER, None, "refusal"),
    ],
)
def test_a_stop_reason_is_one_of_the_api(
    reason: FinishReason, backend: str | None, stop: str
) -> None:
    answer = completion(ANSWERS[0], reason, backend_finish_reason=backend)

    assert write_message(answer)["stop_reason"] == stop


def test_blocks_of_the_api_alone_are_returned_as_they_came() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "web_search_tool_result", "content": []}]
    message = Message("assistant", "a", extra={"anthropic_content": blocks})

    assert write_message(completion(message, FinishReason.STOP))["content"] == blocks
    events = [json.dumps(event) for event in events_of(message, FinishReason.STOP)]
    assert any("web_search_tool_result" in event for event in events)


def test_arguments_that_begin_like_an_empty_object_are_kept() -> None:
    writer = MessageEventWriter("m")
    part = Message("assistant", tool_calls=(ToolCall("a", "add", '{"a": {}}'),))
    first, *rest = to_deltas(part)
    pieces = [event for delta in (first, *rest) for event in writer.delta(delta)]
    written = "".join(event["delta"]["partial_json"] for event in pieces if "delta" in event)

    assert json.loads(written) == {"a": {}}
    assert list(writer.delta(Delta())) == []


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "theirs", "is_tried_again"),
    [
        (errors.InvalidRequest("x"), anthropic.BadRequestError, "false"),
        (errors.AuthenticationFailed("c", "no"), anthropic.AuthenticationError, "false"),
        (errors.ModelNotFound("c", "m", []), anthropic.NotFoundError, "false"),
        (errors.RateLimited("busy", 2.0), anthropic.RateLimitError, "false"),
        (errors.Overloaded("queue", 5, 2.0), anthropic.RateLimitError, "true"),
        (errors.CoreUnavailable("down", 2.0), anthropic.APIStatusError, "false"),
        (errors.SyscallCancelled("killed"), anthropic.APIStatusError, "false"),
    ],
)
def test_a_client_tries_again_only_what_the_kernel_has_not_tried(
    error: errors.KernelError, theirs: type[Exception], is_tried_again: str
) -> None:
    joint = as_anthropic_error(error, REQUEST)

    assert isinstance(joint, theirs)
    assert isinstance(joint, type(error))
    assert as_message_error(error, REQUEST).headers["x-should-retry"] == is_tried_again


def test_the_providers_status_of_a_failure_is_kept() -> None:
    failed = errors.CoreError("c", "oh")
    failed.reply = errors.ProviderReply(529, request_id="req-1")
    response = as_message_error(failed, REQUEST)

    assert (response.status_code, response.headers["request-id"]) == (529, "req-1")
