"""Nothing of a request or of an answer is lost between a program and the server."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from aios_core.core import (
    Finished,
    Progress,
)
from aios_core.cores.deltas import assemble
from aios_core.errors import (
    AuthenticationFailed,
    ContextOverflow,
    CoreError,
    KernelError,
    RequestRefused,
)
from aios_core.kernel.llm import build_llm_request
from aios_core.messages import (
    FinishReason,
    Message,
    Sampling,
    ToolCall,
    parse_messages,
)
from aios_core.syscalls import LLMGenerate
from aios_core.testing.stub_server import Answer, Raw, StubServer

from .rig import ADD, ask, connected, failure

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
