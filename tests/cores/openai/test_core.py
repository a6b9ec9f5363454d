"""The OpenAI-compatible core: what it sends, how it starts and how it stops a run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from aios_core.core import (
    Core,
    Stopped,
)
from aios_core.cores.openai.core import OpenAICore
from aios_core.errors import (
    CoreError,
)
from aios_core.messages import (
    FinishReason,
    ResponseFormat,
    Sampling,
    ToolCall,
    Usage,
)
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract
from aios_core.testing.stub_server import Answer, Hang, StubServer

from .rig import ADD, CALL, IMPATIENT, STORY, ask, connected


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


# --- what is sent and what comes back -------------------------------------------------------------


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


# --- start ----------------------------------------------------------------------------------------


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


# --- cancel ---------------------------------------------------------------------------------------


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
