"""Failures of the Messages API: refusals, broken streams, and limits that a refusal names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    CoreError,
    InvalidRequest,
    KernelError,
    ModelNotFound,
    PermissionRefused,
    RateLimited,
    RequestRefused,
)
from aios_core.messages import Message, ResponseFormat, Sampling, ToolSpec
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer, Drop, Hang, Raw, Refuse

from .rig import IMPATIENT, STORY, ask, connected, core_of, failure

Serve = Callable[..., AnthropicStubServer]


@pytest.mark.parametrize(
    ("refusal", "kind", "is_retryable"),
    [
        (Refuse(400, "messages: at least one message"), RequestRefused, False),
        (Refuse(400, "Output blocked by content filtering policy"), ContentFiltered, False),
        (Refuse(400, "Your credit balance is too low"), CoreError, False),
        (Refuse(402, "pay"), CoreError, False),
        (Refuse(401, "invalid x-api-key"), AuthenticationFailed, False),
        (Refuse(403, "not allowed"), PermissionRefused, False),
        (Refuse(404, "model: stub"), ModelNotFound, False),
        (Refuse(413, "Request exceeds the maximum size"), RequestRefused, False),
        (Refuse(500, "Internal server error"), CoreError, True),
        (Refuse(504, "took too long"), CoreError, True),
        (Refuse(529, "Overloaded"), CoreError, True),
    ],
)
async def test_each_refusal_is_a_typed_error(
    serve: Serve, refusal: Refuse, kind: type[KernelError], is_retryable: bool
) -> None:
    async with connected(serve(refusal)) as rig:
        error = await failure(rig)

    assert type(error) is kind
    assert getattr(error, "is_retryable", False) is is_retryable
    assert refusal.message in str(error) + str(getattr(error, "__notes__", ""))
    assert error.reply is not None
    assert error.reply.status_code == refusal.status


async def test_a_prompt_that_is_too_long_is_an_overflow_with_its_numbers(serve: Serve) -> None:
    async with connected(serve(context_window=100)) as rig:
        error = await failure(rig, ask("word " * 150))

    assert isinstance(error, ContextOverflow)
    assert (error.num_tokens, error.context_window) == (150, 100)


@pytest.mark.parametrize("status", [429, 529])
async def test_the_core_pauses_as_long_as_the_server_asks(serve: Serve, status: int) -> None:
    refusal = Refuse(status, "too many", {"retry-after": "0.05"})
    async with connected(serve([refusal, Answer(STORY)])) as rig:
        error = await failure(rig)
        assert (await rig.generate(ask())).text == STORY

    assert isinstance(error, RateLimited if status == 429 else CoreError)


async def test_overload_inside_a_stream_is_retryable_before_the_first_word_alone(
    serve: Serve,
) -> None:
    async with connected(serve(Answer(STORY, then="error", after=0))) as rig:
        early = await failure(rig)
    async with connected(serve(Answer(STORY, then="error", after=3))) as rig:
        late = await failure(rig)

    assert isinstance(early, CoreError)
    assert isinstance(late, CoreError)
    assert (early.is_retryable, late.is_retryable) == (True, False)
    assert "Overloaded" in str(late)


@pytest.mark.parametrize("then", ["drop", "garbage", "cut", "hang"])
@pytest.mark.parametrize("after", [0, 3])
async def test_a_stream_that_breaks_is_one_typed_error(serve: Serve, then: Any, after: int) -> None:
    answer = Answer(STORY, then=then, after=after)
    async with connected(serve(answer), time_limits=IMPATIENT) as rig:
        error = await failure(rig)

    assert isinstance(error, CoreError)
    is_of_the_connection = then != "garbage"
    assert error.is_retryable is (after == 0 or is_of_the_connection)


@pytest.mark.parametrize("behavior", [Drop(), Hang()])
async def test_a_server_that_does_not_answer_is_a_retryable_error(
    serve: Serve, behavior: Any
) -> None:
    async with connected(serve(behavior), time_limits=IMPATIENT) as rig:
        error = await failure(rig)

    assert isinstance(error, CoreError)
    assert error.is_retryable


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"", b"[1, 2]", b'{"choices": []}'])
async def test_a_body_that_is_no_message_is_named(serve: Serve, body: bytes) -> None:
    async with connected(serve(Raw(body, "text/html"))) as rig:
        error = await failure(rig)

    assert isinstance(error, CoreError)
    assert "answered 200 with" in str(error)


async def test_unknown_events_and_blocks_are_ignored(serve: Serve) -> None:
    events = [
        '{"type": "message_start", "message": {"id": "m"}}',
        '{"type": "weather", "index": 7}',
        '{"type": "content_block_start", "index": 0, "content_block": {"type": "hologram"}}',
        '{"type": "content_block_delta", "index": 0, "delta": {"type": "light_delta"}}',
        '{"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta"}}',
        '{"type": "content_block_stop", "index": 0}',
        '{"type": "content_block_start", "index": 1, "content_block": {"type": "text"}}',
        (
            '{"type": "content_block_delta", "index": 1, "delta":'
            ' {"type": "text_delta", "text": "seen"}}'
        ),
        '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}',
        '{"type": "message_stop"}',
    ]
    raw = "".join(f"data: {event}\n\n" for event in events).encode()
    async with connected(serve(Raw(raw))) as rig:
        completion = await rig.generate(ask())

    assert completion.text == "seen"
    assert completion.usage.is_estimated


@pytest.mark.parametrize(
    "event",
    [
        "null",
        "[]",
        '{"type": "content_block_start"}',
        '{"type": "content_block_start", "index": "x", "content_block": {"type": "text"}}',
        '{"type": "content_block_start", "index": 0, "content_block": 3}',
        '{"type": "message_start"}',
        '{"type": "message_delta"}',
    ],
)
async def test_a_malformed_event_is_one_typed_error(serve: Serve, event: str) -> None:
    async with connected(serve(Raw(f"data: {event}\n\n".encode()))) as rig:
        error = await failure(rig)

    assert isinstance(error, CoreError)
    assert "unreadable answer" in str(error)


async def test_settings_that_a_model_refuses_are_left_out_from_then_on(serve: Serve) -> None:
    def behave(body: dict[str, Any]) -> Answer | Refuse:
        for key in ("temperature", "top_p"):
            if key in body:
                return Refuse(400, f"`{key}` is not supported for this model")
        return Answer(STORY)

    server = serve(behave)
    sampling = Sampling(temperature=0.5, top_p=0.5)
    async with connected(server) as rig:
        assert (await rig.generate(ask(sampling=sampling))).text == STORY
        assert (await rig.generate(ask(sampling=sampling))).text == STORY

    assert len(server.exchanges) == 4


async def test_an_answer_is_made_to_fit_beside_its_prompt(serve: Serve) -> None:
    what = "input length and `max_tokens` exceed context limit: 900 + 1024 > 1000, decrease"
    server = serve([Refuse(400, what), Answer(STORY)])
    async with connected(server) as rig:
        assert (await rig.generate(ask())).text == STORY

    assert [exchange.body["max_tokens"] for exchange in server.exchanges] == [1024, 100]


async def test_a_refusal_that_repeats_itself_is_reported(serve: Serve) -> None:
    server = serve(Refuse(400, "max_tokens: 5 > 1000, which is the maximum allowed number"))
    async with connected(server) as rig:
        assert isinstance(await failure(rig), RequestRefused)

    assert [exchange.body["max_tokens"] for exchange in server.exchanges] == [1024, 1000]


async def test_the_key_is_not_in_an_error(serve: Serve) -> None:
    key = "sk-ant-a-secret-key-0123456789"
    server = serve(Refuse(400, f"the key {key} is odd"))
    async with connected(server, api_key=key) as rig:
        error = await failure(rig)

    assert key not in str(error)
    assert key not in repr(error.__cause__)


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (
            ask([Message("user", parts=({"type": "input_audio", "input_audio": {}},))]),
            "takes no audio",
        ),
        (
            ask([Message("user", parts=({"type": "image_url", "image_url": {}},))]),
            "an image part needs a URL",
        ),
        (
            ask(tools=(ToolSpec.from_dict({"type": "custom", "custom": {"name": "sql"}}),)),
            "no tools with arguments of free text",
        ),
        (
            ask(response_format=ResponseFormat.from_dict({"type": "grammar", "grammar": "x"})),
            "response_format: got 'grammar'",
        ),
        (ask(tools=(ToolSpec("a"),), tool_choice={"type": "allowed_tools"}), "tool_choice"),
        (ask(extra={"betas": 3}), "betas: got 3"),
    ],
)
async def test_a_request_without_a_form_is_refused_with_what_is_allowed(
    serve: Serve, request_: Any, what: str
) -> None:
    async with connected(serve()) as rig:
        with pytest.raises(InvalidRequest, match=r"allowed|needs") as caught:
            await rig.prepare(request_)

    assert what in str(caught.value)


async def test_a_core_that_is_not_started_says_so(serve: Serve) -> None:
    core = core_of(serve())

    assert await core.count_prompt(ask()) is None
    assert not core.load().is_up
