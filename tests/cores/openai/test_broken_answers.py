"""The OpenAI-compatible core when the server breaks off, hangs or answers something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aios_core.core import (
    CoreDown,
    Failed,
)
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.cores.openai.core import OpenAICore
from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    CoreError,
    KernelError,
    ModelNotFound,
    PermissionRefused,
    RateLimited,
    RequestRefused,
)
from aios_core.messages import (
    FinishReason,
)
from aios_core.testing.stub_server import Answer, Drop, Hang, Raw, StubServer

from .rig import ADD, IMPATIENT, STORY, ask, connected, failure


@contextmanager
def impatient(core: OpenAICore, behavior: Any) -> Iterator[None]:
    """Short limits for an endpoint that hangs. Others have time, however busy the machine is."""
    limits = core._limits
    if isinstance(behavior, Hang) or getattr(behavior, "then", None) == "hang":
        core._limits = IMPATIENT
    yield
    core._limits = limits


BEFORE_ANYTHING = {
    "hangs": Hang(),
    "hangs after the headers": Answer(STORY, then="hang", after=0),
    "drops the connection": Drop(),
    "answers garbage": Raw(b"data: {{{\n\n"),
    "answers JSON of another shape": Raw(b'data: {"choices": [{"delta": 7}]}\n\n'),
    "answers a number": Raw(b"data: 42\n\n"),
}


@pytest.mark.parametrize("behavior", BEFORE_ANYTHING.values(), ids=list(BEFORE_ANYTHING))
async def test_an_endpoint_that_fails_before_its_answer_gives_a_retryable_error(
    serve: Callable[..., StubServer], behavior: Any
) -> None:
    server = serve([behavior, Answer(STORY)])
    async with connected(server) as rig:
        with impatient(rig.core, behavior):
            error = await failure(rig)

        assert isinstance(error, CoreError)
        assert error.is_retryable
        assert rig.core.load().num_running == 0
        assert (await rig.generate(ask())).text == STORY
    server.wait(lambda: server.num_active == 0, "the end of every exchange")


NO_COMPLETIONS = {
    "HTML": (Raw(b"<html>Please log in</html>", "text/html"), "Please log in"),
    "a detail": (Raw(b'{"detail": "Not enough credit"}', "application/json"), "Not enough credit"),
    "a detail as an event": (Raw(b'data: {"detail": "No credit"}\n\n'), "No credit"),
    "no choices": (Raw(b'{"id": "x", "choices": []}', "application/json"), '"choices": []'),
    "null choices": (Raw(b'{"id": "x", "choices": null}', "application/json"), "null"),
    "other choices": (Raw(b'{"choices": "blue"}', "application/json"), "blue"),
    "a list": (Raw(b'["nothing here"]', "application/json"), "nothing here"),
    "half a document": (Raw(b'{"choices": [', "application/json"), '{"choices": ['),
    "plain text": (Raw(b"upstream is busy", "text/plain"), "upstream is busy"),
    "nothing": (Raw(b""), "an empty body"),
    "a stream without an event": (Answer(STORY, then="cut", after=0), "an empty body"),
    "an end alone": (Raw(b"data: [DONE]\n\n"), "[DONE]"),
}


@pytest.mark.parametrize(("behavior", "shown"), NO_COMPLETIONS.values(), ids=list(NO_COMPLETIONS))
async def test_status_200_with_something_else_is_final_and_shows_how_the_body_begins(
    serve: Callable[..., StubServer], behavior: Raw | Answer, shown: str
) -> None:
    async with connected(serve(behavior), api_key="secret") as rig:
        error = await failure(rig)

        assert type(error) is CoreError
        assert not error.is_retryable
        assert shown in str(error)
        assert rig.core.load().is_up


async def test_a_page_that_quotes_the_key_is_shown_without_it(
    serve: Callable[..., StubServer],
) -> None:
    page = Raw(b"<p>the key secret-of-ours is unknown</p>", "text/html")
    async with connected(serve(page), api_key="secret-of-ours") as rig:
        error = await failure(rig)

    assert "is unknown" in str(error)
    assert "secret-of-ours" not in str(error) + repr(error) + (error.provider_message or "")


async def test_a_stream_of_comments_that_ends_is_tried_again(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve([Raw(b": PROCESSING\n\n"), Answer(STORY)])) as rig:
        error = await failure(rig)

    assert isinstance(error, CoreError)
    assert error.is_retryable


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 400}, RequestRefused),
        ({"code": "401"}, AuthenticationFailed),
        ({"type": "authentication_error"}, AuthenticationFailed),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, AuthenticationFailed),
        ({"code": 403}, PermissionRefused),
        ({"code": "model_not_found"}, ModelNotFound),
        ({"code": 404}, ModelNotFound),
        ({"code": 429}, RateLimited),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, RateLimited),
        ({"type": "rate_limit_error"}, RateLimited),
        ({"code": 429, "type": "insufficient_quota"}, CoreError),
        ({"code": "content_filter"}, ContentFiltered),
        ({"code": "context_length_exceeded"}, ContextOverflow),
        ({"code": 503}, CoreError),
        ({"code": "weird"}, CoreError),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_event", [True, False], ids=["in a stream", "as a document"])
async def test_an_error_inside_an_answer_is_of_the_kind_that_its_code_says(
    serve: Callable[..., StubServer], error: dict[str, Any], kind: type[KernelError], as_event: bool
) -> None:
    body = json.dumps({"error": {"message": "no such model for you", **error}}).encode()
    async with connected(serve(Raw(b"data: " + body + b"\n\n" if as_event else body))) as rig:
        failed = await failure(rig)

        assert type(failed) is kind
        assert not getattr(failed, "is_retryable", False)
        assert failed.provider_message == "no such model for you"
        assert (rig.core.load().available_in_s > 0) == (kind is RateLimited)


async def test_a_rate_limit_inside_an_answer_pauses_the_core_for_as_long_as_it_asks(
    serve: Callable[..., StubServer],
) -> None:
    metadata = {"headers": {"Retry-After": "40"}}
    error = {"message": "slow down", "code": 429, "metadata": metadata}
    async with connected(serve(Raw(json.dumps({"error": error}).encode()))) as rig:
        failed = await failure(rig)

        assert isinstance(failed, RateLimited)
        assert 30 < failed.retry_after_s <= 40
        assert 30 < rig.core.load().available_in_s <= 40


OLD_CALL = {"name": "add", "arguments": '{"a": 1, "b": 2}'}


async def test_the_old_function_call_is_a_tool_call(serve: Callable[..., StubServer]) -> None:
    message = {"role": "assistant", "content": None, "function_call": OLD_CALL}
    choice = {"index": 0, "message": message, "finish_reason": "function_call"}
    whole = Raw(json.dumps({"choices": [choice]}).encode(), "application/json")
    fragments: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": ""}},
        {"function_call": {"arguments": '{"a": 1,'}},
        {"function_call": {"arguments": ' "b": 2}'}},
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in fragments]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "function_call"}]})
    stream = Raw(b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks))
    async with connected(serve([whole, stream])) as rig:
        answers = [await rig.generate(ask(tools=(ADD,))) for _ in range(2)]

    for answer in answers:
        (call,) = answer.message.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1, "b": 2})
        assert answer.finish_reason is FinishReason.TOOL_CALLS
        assert answer.backend_finish_reason == "function_call"
        assert "function_call" not in answer.message.to_dict()


@pytest.mark.parametrize(
    ("then", "is_of_the_connection"),
    [("hang", True), ("drop", True), ("cut", True), ("garbage", False), ("error", False)],
)
async def test_an_endpoint_that_fails_midway_gives_an_error_that_tells_whose_fault_it_is(
    serve: Callable[..., StubServer], then: Any, is_of_the_connection: bool
) -> None:
    behavior = Answer(STORY, then=then, after=3)
    server = serve([behavior, Answer(STORY)])
    async with connected(server) as rig:
        with impatient(rig.core, behavior):
            run = await rig.run(ask())
            end = await rig.end(run)

        assert isinstance(end, Failed)
        assert isinstance(end.error, CoreError)
        assert end.error.is_retryable is is_of_the_connection
        assert end.snapshot is None, "this server cannot continue an answer"
        assert end.usage.output_tokens == rig.num_tokens(run) == 3
        assert (await rig.generate(ask())).text == STORY


async def test_a_slow_answer_is_no_hanging_one(serve: Callable[..., StubServer]) -> None:
    """Its parts come within the limit, and all of them together do not."""
    limits = TimeLimits(first_chunk_s=30.0, next_chunk_s=2.0)
    async with connected(serve(Answer("a b c d e", token_s=0.5)), time_limits=limits) as rig:
        assert (await rig.generate(ask())).text == "a b c d e"


async def test_an_answer_whose_usage_never_comes_is_still_an_answer(
    serve: Callable[..., StubServer],
) -> None:
    chunk = (
        b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\n'
        b"data: {{{\n\n"
    )
    async with connected(serve(Raw(chunk))) as rig:
        assert (await rig.generate(ask())).text == "yes"


async def test_an_answer_that_the_provider_filters_keeps_its_text_and_says_so(
    serve: Callable[..., StubServer],
) -> None:
    chunk = (
        b'data: {"choices":[{"index":0,"delta":{"content":"half"},'
        b'"finish_reason":"content_filter"}]}\n\n'
    )
    async with connected(serve(Raw(chunk))) as rig:
        completion = await rig.generate(ask())

    assert (completion.text, completion.finish_reason) == ("half", FinishReason.CONTENT_FILTER)


async def test_a_server_that_is_gone_takes_the_core_down_until_it_is_started_again(
    serve: Callable[..., StubServer],
) -> None:
    server = serve()
    async with connected(server) as rig:
        server.close()
        runs = [await rig.run(ask()) for _ in range(3)]
        errors = [end.error for run in runs if isinstance(end := await rig.end(run), Failed)]
        await rig.until(lambda: rig.general, "report that the core is down")

        assert len(errors) == 3
        assert all(isinstance(e, CoreError) and e.is_retryable for e in errors)
        assert [type(report) for report in rig.general] == [CoreDown]
        assert not rig.core.load().is_up
        assert "is not up" in str(await failure(rig))

        with pytest.raises(CoreError, match="cannot reach"):
            await rig.core.start(rig.sink)


async def test_a_core_that_went_down_starts_again(serve: Callable[..., StubServer]) -> None:
    async with connected(serve()) as rig:
        assert isinstance(rig.core, OpenAICore)
        rig.core.report_down("for the test")
        await rig.core.start(rig.sink)

        assert rig.core.load().is_up
        assert (await rig.generate(ask())).text == STORY
