"""The Anthropic core: what it sends, what comes back, how it starts and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aios_core.core import Core, Finished, Report, Run, Stopped
from aios_core.cores.anthropic.core import AnthropicCore
from aios_core.errors import CoreError
from aios_core.messages import (
    FinishReason,
    Message,
    Sampling,
    ToolCall,
    ToolSpec,
    Usage,
)
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer, Hang, Raw

from .rig import ADD, CALL, IMPATIENT, STORY, ask, connected, core_of

Serve = Callable[..., AnthropicStubServer]

THOUGHTS = (
    {"type": "thinking", "thinking": "one and two", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "aGlkZGVu"},
)


class TestContract(CoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, serve: Serve) -> None:
        def behave(body: dict[str, Any]) -> Answer:
            if body.get("tools"):
                return Answer("", (CALL,))
            return Answer(STORY, token_s=0.001)

        self.server = serve(behave, context_window=512)

    def make_core(self) -> Core:
        return core_of(self.server)

    def tool_request(self) -> LLMGenerate:
        return ask(tools=(ADD,))


# --- what is sent ---------------------------------------------------------------------------------


async def test_every_setting_of_a_request_is_sent(serve: Serve) -> None:
    server = serve(Answer("", (CALL,)))
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, top_k=7, stop=("END",))
    async with connected(server, betas=["files"]) as rig:
        await rig.generate(
            ask(
                sampling=sampling,
                tools=(ADD,),
                tool_choice="add",
                parallel_tool_calls=False,
                extra={"metadata": {"user_id": "me"}, "betas": ["context"]},
            )
        )
    body, headers = server.exchanges[0].body, server.exchanges[0].headers

    assert (body["model"], body["max_tokens"], body["stream"]) == ("stub", 9, True)
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 7)
    assert body["stop_sequences"] == ["END"]
    assert body["tools"][0]["input_schema"] == {"type": "object", "properties": {}}
    assert body["tool_choice"] == {
        "type": "tool",
        "name": "add",
        "disable_parallel_tool_use": True,
    }
    assert body["metadata"] == {"user_id": "me"}
    assert headers["anthropic-beta"] == "files,context"


async def test_settings_that_the_api_does_not_know_are_left_out(serve: Serve) -> None:
    server = serve()
    sampling = Sampling(seed=7, frequency_penalty=0.5, logprobs=True, temperature=1.7, top_k=-1)
    async with connected(server) as rig:
        await rig.generate(ask(sampling=sampling))
    body = server.exchanges[0].body

    assert body["temperature"] == 1.0
    assert not {"seed", "frequency_penalty", "logprobs", "top_k"} & set(body)


async def test_parameters_that_a_model_refuses_are_left_out(serve: Serve) -> None:
    server = serve()
    async with connected(server, omit={"temperature"}) as rig:
        await rig.generate(ask(sampling=Sampling(temperature=0.0)))

    assert "temperature" not in server.exchanges[0].body


async def test_the_key_is_sent(serve: Serve) -> None:
    async with connected(serve(api_key="sesame"), api_key="sesame") as rig:
        assert (await rig.generate(ask())).text == STORY


async def test_without_a_limit_the_model_may_write_as_much_as_it_can(serve: Serve) -> None:
    server = serve(max_output=777)
    async with connected(server) as rig:
        await rig.generate(ask())
        await rig.generate(ask(sampling=Sampling(max_tokens=5_000)))

    assert [exchange.body["max_tokens"] for exchange in server.exchanges] == [777, 777]


async def test_a_model_of_unknown_limits_is_asked_again_with_the_limit_that_it_names(
    serve: Serve,
) -> None:
    server = serve(max_output=300)
    async with connected(server, probe=False) as rig:
        first = await rig.generate(ask())
        await rig.generate(ask())

    assert first.text == STORY
    limits = [exchange.body["max_tokens"] for exchange in server.exchanges]
    assert limits == [32_000, 300, 300]


async def test_a_limit_of_the_options_holds_for_answers_without_one(serve: Serve) -> None:
    server = serve()
    async with connected(server, max_output_tokens=50) as rig:
        await rig.generate(ask())

    assert server.exchanges[0].body["max_tokens"] == 50


# --- what comes back ------------------------------------------------------------------------------


async def test_thoughts_keep_their_signatures_and_are_sent_back_unchanged(serve: Serve) -> None:
    answer = Message("assistant", "Three.", tool_calls=(CALL,), thinking=THOUGHTS)
    server = serve([Answer(message=answer), Answer("done")])
    question = Message("user", "1 + 2?")
    async with connected(server) as rig:
        first = await rig.generate(ask([question], tools=(ADD,)))
        result = Message("tool", "3", tool_call_id=CALL.id)
        kept = Message.from_dict(first.message.to_dict())
        await rig.generate(ask([question, kept, result], tools=(ADD,)))
    turn = server.exchanges[1].body["messages"][1]

    assert first.reasoning == "one and two"
    assert turn["content"] == [
        *THOUGHTS,
        {"type": "text", "text": "Three."},
        {"type": "tool_use", "id": CALL.id, "name": "add", "input": {"a": 1, "b": 2}},
    ]


async def test_blocks_in_another_order_are_sent_back_in_that_order(serve: Serve) -> None:
    blocks = [
        {"type": "text", "text": "Let me look."},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"q": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
        {"type": "thinking", "thinking": "found it", "signature": "s"},
        {"type": "text", "text": " It is x.", "citations": [{"type": "char_location"}]},
    ]
    server = serve([Answer(message=Message("assistant", parts=tuple(blocks))), Answer("done")])
    async with connected(server) as rig:
        first = await rig.generate(ask())
        kept = Message.from_dict(first.message.to_dict())
        await rig.generate(ask([Message("user", "hello"), kept, Message("user", "and?")]))

    assert first.text == "Let me look. It is x."
    assert server.exchanges[1].body["messages"][1]["content"] == blocks


async def test_parallel_calls_come_out_whole(serve: Serve) -> None:
    other = ToolCall("toolu_8", "now", "{}")
    async with connected(serve(Answer("Let me see.", (CALL, other)))) as rig:
        run = await rig.run(ask(tools=(ADD,)))
        completion = await rig.answer(run)

    assert completion.tool_calls == (CALL, other)
    assert completion.finish_reason is FinishReason.TOOL_CALLS
    assert completion.backend_finish_reason == "tool_use"


@pytest.mark.parametrize(
    ("reason", "kernels"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("pause_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
    ],
)
async def test_each_stop_reason_has_a_finish_reason(
    serve: Serve, reason: str, kernels: FinishReason
) -> None:
    async with connected(serve(Answer("some text", finish_reason=reason))) as rig:
        completion = await rig.generate(ask())

    assert (completion.finish_reason, completion.backend_finish_reason) == (kernels, reason)


async def test_the_reason_of_a_refusal_is_kept(serve: Serve) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    answer = Answer("", finish_reason="refusal", extra={"stop_details": details})
    async with connected(serve(answer)) as rig:
        completion = await rig.generate(ask())

    assert completion.extra["stop_details"] == details


async def test_an_answer_in_one_document_is_read_as_well(serve: Serve) -> None:
    document = b"""{"id": "msg_1", "type": "message", "role": "assistant", "model": "stub",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "whole"},
                    {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}],
        "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 9}}"""
    async with connected(serve(Raw(document, "application/json"))) as rig:
        completion = await rig.generate(ask())

    assert (completion.text, completion.usage) == ("whole", Usage(3, 9))
    assert completion.tool_calls == (ToolCall("toolu_1", "add", '{"a": 1}'),)
    assert dict(completion.message.thinking[0]) == {
        "type": "thinking",
        "index": 0,
        "thinking": "hm",
        "signature": "s",
    }


async def test_ten_thousand_chunks_come_out_in_order(serve: Serve) -> None:
    text = " ".join(f"w{number}" for number in range(10_000))
    server = serve(Answer(text), max_output=20_000, context_window=100_000)
    core = core_of(server)
    reports: list[Report] = []
    is_over = asyncio.Event()

    def sink(more: Sequence[Report]) -> None:
        reports.extend(more)
        if any(isinstance(report, Finished) for report in more):
            is_over.set()

    await core.start(sink)
    core.run(Run(1, 1, ask(), core.prepare(ask())))
    await is_over.wait()
    await core.close()
    completion = reports[-1].completion  # type: ignore[union-attr]

    assert completion.text == text
    assert completion.usage.output_tokens == 10_000
    assert len(reports) == 10_001


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_characters_that_are_cut_between_chunks_come_out_whole(
    serve: Serve, size: int
) -> None:
    text = "héllo 🦊 日本語 \U0001f468\u200d\U0001f469"
    events = [
        ("message_start", '{"type": "message_start", "message": {"id": "m", "usage": {}}}'),
        (
            "content_block_start",
            (
                '{"type": "content_block_start", "index": 0, "content_block": '
                '{"type": "text", "text": ""}}'
            ),
        ),
        (
            "content_block_delta",
            (
                '{"type": "content_block_delta", "index": 0, "delta": '
                f'{{"type": "text_delta", "text": "{text}"}}}}'
            ),
        ),
        (
            "message_delta",
            '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}',
        ),
        ("message_stop", '{"type": "message_stop"}'),
    ]
    raw = "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events).encode()
    server = serve(Raw(raw))
    async with connected(server) as rig:
        core: Any = rig.core
        core._client._client.event_hooks["response"] = [_in_bytes_of(size)]
        completion = await rig.generate(ask())

    assert completion.text == text


def _in_bytes_of(size: int) -> Callable[[Any], Any]:
    """A hook that cuts the body of a response into pieces of that many bytes."""

    async def cut(response: Any) -> None:
        whole = await response.aread()

        async def pieces(*_: Any) -> Any:
            for at in range(0, len(whole), size):
                yield whole[at : at + size]

        response.aiter_bytes = pieces

    return cut


async def test_halves_of_a_surrogate_pair_are_joined(serve: Serve) -> None:
    events = [
        '{"type": "message_start", "message": {"id": "m"}}',
        '{"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}',
        (
            '{"type": "content_block_delta", "index": 0, "delta":'
            ' {"type": "text_delta", "text": "a \\ud83e"}}'
        ),
        (
            '{"type": "content_block_delta", "index": 0, "delta":'
            ' {"type": "text_delta", "text": "\\udd8a b"}}'
        ),
        '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}',
    ]
    raw = "".join(f"data: {event}\n\n" for event in events).encode()
    async with connected(serve(Raw(raw))) as rig:
        assert (await rig.generate(ask())).text == "a 🦊 b"


# --- start and end --------------------------------------------------------------------------------


async def start_error(core: AnthropicCore) -> str:
    with pytest.raises(CoreError) as caught:
        await core.start(lambda _: None)
    assert not core.load().is_up
    await core.close()
    return str(caught.value)


async def test_start_reads_the_limits_of_the_model(serve: Serve) -> None:
    async with connected(serve(context_window=12_345)) as rig:
        assert rig.core.capabilities.context_window == 12_345


async def test_start_names_the_models_that_are_served(serve: Serve) -> None:
    server = serve(models=["claude-a", "claude-b"])

    message = await start_error(AnthropicCore(["claude-c"], base_url=server.base_url))

    assert "does not serve ['claude-c']; has ['claude-a', 'claude-b']" in message


async def test_start_refuses_a_wrong_key_without_showing_it(serve: Serve) -> None:
    core = core_of(serve(api_key="sesame"), api_key="sk-ant-wrong-key-0123456789")

    message = await start_error(core)

    assert "refused the key" in message
    assert "wrong-key" not in message


async def test_start_ends_if_nobody_listens() -> None:
    message = await start_error(AnthropicCore(["stub"], base_url="http://127.0.0.1:9"))

    assert "cannot reach http://127.0.0.1:9" in message


async def test_a_base_url_may_name_the_version(serve: Serve) -> None:
    server = serve()
    core = AnthropicCore(["stub"], base_url=f"{server.base_url}/v1/")
    await core.start(lambda _: None)

    assert core.load().is_up
    await core.close()


async def test_a_cancelled_run_closes_its_connection(serve: Serve) -> None:
    server = serve(Answer(STORY, then="hang", after=3))
    async with connected(server) as rig:
        run = await rig.run(ask())
        await rig.tokens(run, 3)
        rig.core.cancel(run)
        end = await rig.end(run)
        await server.until(lambda: server.exchanges[0].was_left, "the end of the connection")

    assert isinstance(end, Stopped)
    assert end.usage.output_tokens == 3


async def test_a_run_that_is_cancelled_before_an_answer_closes_its_connection(
    serve: Serve,
) -> None:
    server = serve(Hang())
    async with connected(server, time_limits=IMPATIENT) as rig:
        run = await rig.run(ask())
        await server.until(lambda: server.exchanges, "the request")
        rig.core.cancel(run)
        assert isinstance(await rig.end(run), Stopped)
        await server.until(lambda: server.exchanges[0].was_left, "the end of the connection")


async def test_closing_ends_a_hundred_answers_at_once(serve: Serve) -> None:
    server = serve(Answer(STORY, then="hang", after=1))
    async with connected(server, slots=100) as rig:
        runs = [await rig.run(ask()) for _ in range(100)]
        await asyncio.gather(*(rig.tokens(run) for run in runs))
        await rig.core.close()
        await rig.settle()

    assert all(isinstance(rig.finals(run)[-1], Stopped) for run in runs)


async def test_a_tool_of_the_api_itself_is_offered_as_it_is(serve: Serve) -> None:
    server = serve()
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    async with connected(server, prompt_cache="off") as rig:
        await rig.generate(ask(tools=(ToolSpec.from_dict(tool),)))

    assert server.exchanges[0].body["tools"] == [tool]
