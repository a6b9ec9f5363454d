"""The OpenAI-compatible core against a server that has good days and bad ones."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from aios_core.core import (
    Core,
    CoreDown,
    Failed,
    Finished,
    LoadChanged,
    Preempted,
    Progress,
    Run,
    Stopped,
)
from aios_core.cores.deltas import assemble
from aios_core.cores.openai.core import OpenAICore, TimeLimits
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
    SnapshotError,
)
from aios_core.kernel.llm import build_llm_request
from aios_core.messages import (
    FinishReason,
    Message,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolSpec,
    Usage,
    parse_messages,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract, Rig
from aios_core.testing.stub_server import Answer, Drop, Hang, Raw, Refuse, Script, StubServer

STORY = "Once upon a time there was a kernel that never lost a single call of its agents."
TELL = Answer(STORY)
ADD = ToolSpec("add", "Add two numbers", {"type": "object", "properties": {}})
CALL = ToolCall("call_7", "add", '{"a": 1, "b": 2}')
IMPATIENT = TimeLimits(first_chunk_s=1.0, next_chunk_s=1.0, probe_s=0.2)  # with who hangs


def ask(text: str = "hello there", **fields: Any) -> LLMGenerate:
    return LLMGenerate(parse_messages(text), **fields)


@contextmanager
def impatient(core: OpenAICore, behavior: Any) -> Iterator[None]:
    """Short limits for an endpoint that hangs. Others have time, however busy the machine is."""
    limits = core._limits
    if isinstance(behavior, Hang) or getattr(behavior, "then", None) == "hang":
        core._limits = IMPATIENT
    yield
    core._limits = limits


@pytest.fixture
def serve() -> Iterator[Callable[..., StubServer]]:
    """Start stub servers; they are gone when the test ends."""
    servers: list[StubServer] = []

    def start(script: Script = TELL, **options: Any) -> StubServer:
        servers.append(StubServer(script, **options).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@asynccontextmanager
async def connected(server: StubServer, **options: Any) -> AsyncIterator[Rig]:
    rig = Rig(OpenAICore(server.base_url, ["stub"], **options))
    await rig.core.start(rig.sink)
    try:
        yield rig
    finally:
        await rig.core.close()
        await rig.settle()
        rig.check()


async def failure(rig: Rig, request: LLMGenerate | None = None) -> KernelError:
    end = await rig.end(await rig.run(request or ask()))
    assert isinstance(end, Failed), end
    return end.error


class _OverStub(CoreContract):
    flavor = "openai"

    @pytest.fixture(autouse=True)
    def _server(self, serve: Callable[..., StubServer]) -> None:
        def behave(body: dict[str, Any]) -> Answer:
            if body.get("tools"):
                return Answer("", (CALL,))
            return Answer(STORY, token_s=0.001)

        self.server = serve(behave, flavor=self.flavor, context_window=512)

    def make_core(self) -> Core:
        return OpenAICore(self.server.base_url, ["stub"], context_window=512)

    def tool_request(self) -> LLMGenerate:
        return ask(tools=(ADD,))


class TestContract(_OverStub):
    pass


class TestContractWithVLLM(_OverStub):
    flavor = "vllm"


# --- what is sent and what comes back ---------------------------------------------------------


async def test_usage_is_the_servers(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(Answer("one two three"))) as rig:
        completion = await rig.generate(ask("hello there"))

    assert completion.usage == Usage(2, 3)
    assert completion.model == "stub"


async def test_without_usage_tokens_are_counted_by_chunk_and_bounded_by_bytes(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(Answer("one two three", has_usage=False))) as rig:
        request = ask("hello there")
        completion = await rig.generate(request)
        bound = (await rig.prepare(request)).num_tokens

    assert completion.usage == Usage(bound, 3, is_estimated=True)


async def test_every_setting_of_a_request_is_sent(serve: Callable[..., StubServer]) -> None:
    server = serve(Answer("", (CALL,)))
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, top_k=7, seed=11, stop=("END",))
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    async with connected(server) as rig:
        await rig.generate(
            ask(
                sampling=sampling,
                tools=(ADD,),
                tool_choice="add",
                parallel_tool_calls=False,
                response_format=ResponseFormat(schema, "sum"),
                extra={"user": "me"},
            )
        )
    body = server.exchanges[0].body

    assert body["messages"] == [{"role": "user", "content": "hello there"}]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (9, 0.5, 0.9)
    assert (body["top_k"], body["seed"], body["stop"]) == (7, 11, ["END"])
    assert body["tools"] == [ADD.to_dict()]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["parallel_tool_calls"] is False
    assert body["response_format"]["json_schema"] == {
        "name": "sum",
        "schema": schema,
        "strict": True,
    }
    assert body["user"] == "me"


async def test_parameters_that_a_model_refuses_are_left_out(
    serve: Callable[..., StubServer],
) -> None:
    server = serve()
    async with connected(server, omit={"temperature"}) as rig:
        await rig.generate(ask())

    assert "temperature" not in server.exchanges[0].body


async def test_two_tool_calls_in_fragments_come_out_whole(
    serve: Callable[..., StubServer],
) -> None:
    other = ToolCall("call_8", "add", '{"a": 3,   "b": [4, 5]}')
    async with connected(serve(Answer("Let me see.", (CALL, other)))) as rig:
        completion = await rig.generate(ask(tools=(ADD,)))

    assert completion.tool_calls == (CALL, other)
    assert completion.text == "Let me see."
    assert completion.finish_reason is FinishReason.TOOL_CALLS


async def test_the_key_is_sent(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(api_key="sesame"), api_key="sesame") as rig:
        assert (await rig.generate(ask())).text == STORY


# --- start ------------------------------------------------------------------------------------


async def start_error(core: OpenAICore) -> str:
    with pytest.raises(CoreError) as caught:
        await core.start(lambda _: None)
    assert not core.load().is_up
    await core.close()
    return str(caught.value)


async def test_an_unreachable_endpoint_does_not_start(serve: Callable[..., StubServer]) -> None:
    server = serve()
    url = server.base_url
    server.close()

    assert f"cannot reach {url}" in await start_error(OpenAICore(url, ["stub"]))


async def test_a_refused_key_does_not_start(serve: Callable[..., StubServer]) -> None:
    server = serve(api_key="sesame")

    assert "refused the key" in await start_error(OpenAICore(server.base_url, ["stub"]))


async def test_a_model_that_is_not_served_does_not_start_and_the_others_are_named(
    serve: Callable[..., StubServer],
) -> None:
    error = await start_error(OpenAICore(serve().base_url, ["stab"]))

    assert "does not serve ['stab']" in error
    assert "['stub']" in error


async def test_a_wrong_path_does_not_start_and_says_what_urls_look_like(
    serve: Callable[..., StubServer],
) -> None:
    url = serve().base_url.removesuffix("/v1")

    assert "/v1" in await start_error(OpenAICore(url, ["stub"]))


async def test_an_endpoint_that_hangs_does_not_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # listens and never accepts
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        error = await start_error(OpenAICore(url, ["stub"], time_limits=IMPATIENT))

    assert "did not answer within 0.2 s" in error


async def test_without_a_probe_it_starts_unseen(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(), probe=False) as rig:
        assert (await rig.generate(ask())).text == STORY


async def test_a_vllm_server_is_recognised_and_says_its_window(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(flavor="vllm", context_window=777)) as rig:
        capabilities = rig.core.capabilities

    assert capabilities.context_window == 777
    assert capabilities.preemptible
    assert not capabilities.exact_resume


# --- refusals ---------------------------------------------------------------------------------


async def test_429_holds_back_the_whole_core_for_as_long_as_the_server_asks(
    serve: Callable[..., StubServer],
) -> None:
    server = serve([Refuse(429, headers={"Retry-After": "0.2"}), Answer(STORY)])
    async with connected(server) as rig:
        error = await failure(rig)
        pause_s = rig.core.load().available_in_s

        assert isinstance(error, RateLimited)
        assert 0 < error.retry_after_s <= 0.2
        assert 0 < pause_s <= 0.2

        await rig.until(lambda: rig.general, "report that the pause is over")
        assert rig.general == [LoadChanged()]
        assert rig.core.load().available_in_s == 0
        assert (await rig.generate(ask())).text == STORY


async def test_429_without_a_time_pauses_longer_each_time(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(Refuse(429))) as rig:
        core = rig.core
        assert isinstance(core, OpenAICore)
        await failure(rig)
        first_s = core.load().available_in_s
        await failure(rig)  # during the pause: the same storm, not another one
        assert core.load().available_in_s <= first_s + 0.1
        core._pause.end()
        await failure(rig)

        assert 0.5 < first_s <= 1.0
        assert 1.5 < core.load().available_in_s <= 2.0


async def test_a_quota_is_respected_by_all_calls_together(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(requests_per_minute=2)
    async with connected(server) as rig:
        runs = [await rig.run(ask()) for _ in range(3)]
        ends = [await rig.end(run) for run in runs]

        refused = [end.error for end in ends if isinstance(end, Failed)]
        assert len(refused) == 1
        assert isinstance(refused[0], RateLimited)
        assert 50 < rig.core.load().available_in_s <= 60


async def test_a_used_up_quota_of_money_is_no_pause(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(Refuse(429, code="insufficient_quota"))) as rig:
        error = await failure(rig)

        assert isinstance(error, CoreError)
        assert not error.is_retryable
        assert rig.core.load().available_in_s == 0


async def test_5xx_is_retryable_and_leaves_the_core_up(serve: Callable[..., StubServer]) -> None:
    async with connected(serve([Refuse(500), Refuse(503), Answer(STORY)])) as rig:
        for _ in range(2):
            error = await failure(rig)
            assert isinstance(error, CoreError)
            assert error.is_retryable
        assert (await rig.generate(ask())).text == STORY


async def test_503_with_a_time_pauses_the_core(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(Refuse(503, headers={"Retry-After": "30"}))) as rig:
        await failure(rig)

        assert 29 < rig.core.load().available_in_s <= 30


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(400, "bad 'tools'"), RequestRefused),
        (Refuse(422, "bad 'temperature'"), RequestRefused),
        (Refuse(400, "no such prompt", code="content_filter"), ContentFiltered),
        (Refuse(400, "the prompt is longer than the maximum model length of 9"), ContextOverflow),
        (Refuse(404, "The model `x` does not exist"), ModelNotFound),
        (Refuse(401, "no such key"), AuthenticationFailed),
        (Refuse(403, "not this model"), PermissionRefused),
        (Refuse(418, "teapot"), CoreError),
    ],
    ids=lambda value: getattr(value, "message", None) or value.__name__,
)
async def test_a_refusal_that_cannot_pass_is_not_retryable(
    serve: Callable[..., StubServer], refusal: Refuse, kind: type[KernelError]
) -> None:
    async with connected(serve(refusal)) as rig:
        error = await failure(rig)

    assert type(error) is kind
    assert not getattr(error, "is_retryable", False)
    assert refusal.message in str(error) + "".join(getattr(error, "__notes__", ()))
    assert (error.status_code, error.provider_message) == (refusal.status, refusal.message)


async def test_an_error_says_which_request_was_refused_and_keeps_no_key(
    serve: Callable[..., StubServer],
) -> None:
    refusal = Refuse(
        401, "bad key sk-0123456789abcdefghijkl; not secret-of-ours", {"x-request-id": "req-7"}
    )
    async with connected(serve(refusal), api_key="secret-of-ours", probe=False) as rig:
        error = await failure(rig)

    assert error.request_id == "req-7"
    assert error.provider_message == "bad key [redacted]; not [redacted]"
    assert "secret-of-ours" not in str(error) + repr(error)


# --- broken answers ---------------------------------------------------------------------------

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


@pytest.mark.parametrize("then", ["hang", "drop", "garbage", "error", "cut"])
async def test_an_endpoint_that_fails_midway_gives_an_error_that_is_not_retryable(
    serve: Callable[..., StubServer], then: Any
) -> None:
    behavior = Answer(STORY, then=then, after=3)
    server = serve([behavior, Answer(STORY)])
    async with connected(server) as rig:
        with impatient(rig.core, behavior):
            run = await rig.run(ask())
            end = await rig.end(run)

        assert isinstance(end, Failed)
        assert isinstance(end.error, CoreError)
        assert not end.error.is_retryable
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


# --- cancel -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behavior",
    [Hang(), Answer(STORY, then="hang", after=2), Answer("word " * 500, token_s=0.01)],
    ids=["before the headers", "in silence", "in full flow"],
)
async def test_a_cancelled_run_leaves_the_server(
    serve: Callable[..., StubServer], behavior: Any
) -> None:
    server = serve(behavior)
    async with connected(server) as rig:
        run = await rig.run(ask())
        await server.until(lambda: server.exchanges, "request")
        if isinstance(behavior, Answer):
            await rig.tokens(run, 2)
        rig.core.cancel(run)

        assert isinstance(await rig.end(run), Stopped)
        await server.until(lambda: server.exchanges[0].was_left, "the client's leaving")
    server.wait(lambda: server.num_active == 0, "the end of every exchange")


async def test_close_leaves_the_server(serve: Callable[..., StubServer]) -> None:
    server = serve(Hang())
    async with connected(server) as rig:
        run = await rig.run(ask())
        await server.until(lambda: server.exchanges, "request")
        await rig.core.close()

        assert isinstance(await rig.end(run), Stopped)
        await server.until(lambda: server.exchanges[0].was_left, "the client's leaving")


# --- vLLM -------------------------------------------------------------------------------------


async def preempted(rig: Rig, request: LLMGenerate, after: int = 3) -> tuple[Run, Snapshot]:
    prepared = await rig.prepare(request)
    run_id = rig.begin(request, prepared)
    await rig.tokens(run_id, after)
    rig.core.preempt(run_id)
    end = await rig.end(run_id)
    assert isinstance(end, Preempted), end
    return Run(run_id, 1, request, prepared), end.snapshot


@pytest.mark.parametrize(
    ("fields", "path"),
    [({}, "/v1/completions"), ({"tools": (ADD,)}, "/v1/chat/completions")],
    ids=["by token ids", "by text, where tools may be called"],
)
async def test_a_preempted_run_leaves_the_server_and_goes_on_where_it_was(
    serve: Callable[..., StubServer], fields: dict[str, Any], path: str
) -> None:
    server = serve(Answer(STORY, token_s=0.005), flavor="vllm")
    async with connected(server) as rig:
        run, snapshot = await preempted(rig, ask(sampling=Sampling(max_tokens=12), **fields))
        await server.until(lambda: server.exchanges[0].was_left, "the client's leaving")
        num_before = rig.num_tokens(run.id)
        rig.go(replace(run, snapshot=snapshot))
        completion = await rig.answer(run.id)

    again = server.exchanges[1]
    assert again.path == path
    assert again.body["max_tokens"] == 12 - num_before
    assert (
        snapshot.text == "".join(STORY.partition(" ")[0:0]) + completion.text[: len(snapshot.text)]
    )
    assert completion.text.split() == STORY.split()[:12]
    assert completion.usage == Usage(2, 12)
    assert rig.num_tokens(run.id) == 12


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": ResponseFormat({"type": "object"})},
        {"sampling": Sampling(temperature=1.0, seed=3)},
        {"tools": (ADD,), "tool_choice": "required"},
    ],
    ids=["constrained", "seeded", "made to call a tool"],
)
async def test_a_run_that_cannot_be_cut_in_two_goes_on(
    serve: Callable[..., StubServer], fields: dict[str, Any]
) -> None:
    server = serve(Answer(STORY, token_s=0.005), flavor="vllm")
    async with connected(server) as rig:
        run = await rig.run(ask(**fields))
        await rig.tokens(run, 2)
        rig.core.preempt(run)

        assert (await rig.answer(run)).text == STORY
    assert len(server.exchanges) == 1


async def test_a_run_that_calls_a_tool_goes_on(serve: Callable[..., StubServer]) -> None:
    slow = Answer("Let me see. ", (CALL,), token_s=0.005)
    async with connected(serve(slow, flavor="vllm")) as rig:
        run = await rig.run(ask(tools=(ADD,)))
        await rig.tokens(run, 4)
        rig.core.preempt(run)

        assert (await rig.answer(run)).tool_calls == (CALL,)


async def test_another_models_text_is_not_gone_on_with(serve: Callable[..., StubServer]) -> None:
    foreign = Snapshot("elsewhere", (1, 2), (1_000,), text="Once ")
    async with connected(serve(flavor="vllm")) as rig:
        run = await rig.run(ask(), snapshot=foreign)
        end = await rig.end(run)

    assert isinstance(end, Failed)
    assert isinstance(end.error, SnapshotError)


async def test_priority_is_passed_on_to_vllm_and_to_nobody_else(
    serve: Callable[..., StubServer],
) -> None:
    urgent, plain = serve(flavor="vllm"), serve()
    for server in (urgent, plain):
        async with connected(server) as rig:
            await rig.end(await rig.run(ask(), priority=-3))

    assert urgent.exchanges[0].body["priority"] == -3
    assert "priority" not in plain.exchanges[0].body


async def test_kv_memory_is_read_from_vllms_metrics(serve: Callable[..., StubServer]) -> None:
    server = serve(Answer("word " * 200, token_s=0.01), flavor="vllm")
    async with connected(server) as rig:
        run = await rig.run(ask())
        while not rig.core.load().kv_capacity:
            await rig.tokens(run, rig.num_tokens(run) + 1)
        load = rig.core.load()
        rig.core.cancel(run)
        await rig.end(run)

    assert (load.kv_tokens, load.kv_capacity) == (400, 1_600)


# --- whole answers ----------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
BLOCK = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
EVERYTHING = Message(
    "assistant",
    "the sum is four",
    tool_calls=(ToolCall("c1", "add", '{"a": 1}', extra={"extra_content": {"sig": "x"}}),),
    reasoning="one and three",
    thinking=(BLOCK,),
    refusal="not more",
    extra={"annotations": [{"type": "url_citation"}], "audio": {"id": "a1", "data": "AAAA"}},
)
RICH = Answer(
    message=EVERYTHING,
    logprobs=True,
    finish_reason="eos_token",
    extra={"system_fingerprint": "fp_7", "service_tier": "flex"},
)


async def test_nothing_of_an_answer_is_lost(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(RICH)) as rig:
        completion = await rig.generate(ask())

    assert completion.message == EVERYTHING
    assert [entry["token"] for entry in (completion.logprobs or {})["content"]] == [
        "the ", "sum ", "is ", "four",
    ]  # fmt: skip
    assert (completion.id, completion.fingerprint) == ("stub-1", "fp_7")
    assert completion.extra == {"service_tier": "flex"}
    assert completion.finish_reason is FinishReason.TOOL_CALLS
    assert completion.backend_finish_reason == "eos_token"


async def test_what_a_stream_says_adds_up_to_its_answer(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(RICH)) as rig:
        run = await rig.run(ask())
        end = await rig.end(run)
        said = assemble(r.delta for r in rig.reports[run] if isinstance(r, Progress))

    assert isinstance(end, Finished)
    assert said.message() == end.completion.message
    assert said.logprobs == end.completion.logprobs


async def test_a_server_that_answers_json_where_a_stream_was_asked_is_understood(
    serve: Callable[..., StubServer],
) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello there"}]}
    with StubServer(RICH) as plain:
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{plain.base_url}/chat/completions"
            whole = (await client.post(url, json=body)).content
    async with connected(serve([RICH, Raw(b"\xef\xbb\xbf" + whole, "application/json")])) as rig:
        streamed = await rig.generate(ask())

        assert await rig.generate(ask()) == streamed


async def test_a_stream_that_ends_without_a_finish_reason_is_an_answer(
    serve: Callable[..., StubServer],
) -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":null}]}\n\n'
    async with connected(serve(Raw(chunk + b"data: [DONE]\n\n"))) as rig:
        completion = await rig.generate(ask())

    assert (completion.text, completion.finish_reason) == ("yes", FinishReason.STOP)
    assert completion.backend_finish_reason is None


async def test_several_answers_to_one_prompt_are_one_call(serve: Callable[..., StubServer]) -> None:
    server = serve(Answer("one two"))
    async with connected(server) as rig:
        completion = await rig.generate(ask(sampling=Sampling(n=3)))

    assert server.exchanges[0].body["n"] == 3
    assert [choice.message.content for choice in completion.all_choices] == ["one two"] * 3
    assert {choice.finish_reason for choice in completion.all_choices} == {FinishReason.STOP}
    assert completion.usage.output_tokens == 6
    assert completion.text == "one two"


async def test_what_is_not_set_is_not_sent(serve: Callable[..., StubServer]) -> None:
    server = serve()
    async with connected(server) as rig:
        await rig.generate(ask(tools=(ADD,)))

    assert server.exchanges[0].body.keys() <= {
        "model", "messages", "tools", "stream", "stream_options", "max_tokens",
    }  # fmt: skip


async def test_a_message_reaches_the_server_as_it_was_written(
    serve: Callable[..., StubServer],
) -> None:
    written = [
        {"role": "developer", "content": "be kind", "name": "boss"},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "what?"}], "name": "ann"},
        {"role": "user", "content": ""},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": "{}"},
                    "extra_content": {"google": {"thought_signature": "x"}},
                }
            ],
            "reasoning": "hm",
            "audio": {"id": "a1"},
        },
        {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "c1"},
    ]
    server = serve()
    async with connected(server) as rig:
        await rig.generate(LLMGenerate(parse_messages(written)))

    assert server.exchanges[0].body["messages"] == written


async def test_schemas_reach_the_server_byte_for_byte(serve: Callable[..., StubServer]) -> None:
    schema = {
        "$defs": {"x": {"description": "an x", "type": "integer"}},
        "properties": {"a": {"$ref": "#/$defs/x"}},
        "additionalProperties": False,
        "type": "object",
    }
    function = {"strict": True, "name": "add", "parameters": schema, "x-note": [1]}
    tools = [
        {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}},
        {"type": "function", "function": {"name": "bare"}},
        {"type": "custom", "custom": {"name": "shell", "format": {"type": "text"}}},
    ]
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "description": "d", "schema": schema, "strict": False},
    }
    server = serve()
    async with connected(server) as rig:
        await rig.generate(build_llm_request("hi", tools=tools, response_format=form))
    body = server.exchanges[0].body

    assert json.dumps(body["tools"]) == json.dumps(tools), "the order of the keys included"
    assert json.dumps(body["response_format"]) == json.dumps(form)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"error": {"message": "no credit", "code": 402}}', CoreError, "no credit"),
        (
            b'data: {"error": {"message": "bad key", "code": 401}}\n\n',
            AuthenticationFailed,
            "bad k",
        ),
        (b'event: error\ndata: {"message": "the engine died"}\n\n', CoreError, "the engine died"),
        (b'{"object": "error", "message": "too hot", "code": 400}', RequestRefused, "too hot"),
        (
            b'{"error": {"message": "maximum context length is 9", "code": null}}',
            ContextOverflow,
            "9",
        ),
    ],
)
async def test_an_error_inside_an_answer_is_final_and_keeps_its_message(
    serve: Callable[..., StubServer], body: bytes, kind: type[KernelError], said: str
) -> None:
    async with connected(serve(Raw(body))) as rig:
        error = await failure(rig)

    assert type(error) is kind
    assert not getattr(error, "is_retryable", False)
    assert said in (error.provider_message or "")
