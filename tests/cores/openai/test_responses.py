"""The Responses API as a backend: what is sent, how its events are read, and when it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import ResponseInputParam, ToolParam
from pydantic import TypeAdapter

from aios_core.core import Core, Failed, Finished, Prepared, Run
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.openai.responses_events import ResponseReader
from aios_core.cores.openai.responses_wire import responses_body
from aios_core.cores.streaming import LiveRun
from aios_core.errors import ContextOverflow, CoreError, InvalidRequest, ModelNotFound, RateLimited
from aios_core.messages import (
    FinishReason,
    Message,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolSpec,
    parse_messages,
)
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract
from aios_core.testing.stub_server import Answer, Raw, Refuse, StubServer

from .rig import ADD, CALL, STORY, ask, connected, failure

THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Add them."}],
    "encrypted_content": "gAAA",
}


class TestContract(CoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, serve: Callable[..., StubServer]) -> None:
        def behave(body: dict[str, Any]) -> Answer:
            return Answer("", (CALL,)) if body.get("tools") else Answer(STORY, token_s=0.001)

        self.server = serve(behave, context_window=512)

    def make_core(self) -> Core:
        return OpenAICore(self.server.base_url, ["stub"], context_window=512, api="responses")

    def tool_request(self) -> LLMGenerate:
        return ask(tools=(ADD,))


# --- what is sent ---------------------------------------------------------------------------------


def sent(*messages: Message, **fields: Any) -> dict[str, Any]:
    return responses_body(LLMGenerate(messages, **fields), "stub")


def test_a_conversation_with_thoughts_and_tools_is_a_list_of_items() -> None:
    body = sent(
        Message("system", "Be brief."),
        Message("user", "1 + 2?"),
        Message("assistant", tool_calls=(CALL,), thinking=(THOUGHT,), has_content=False),
        Message("tool", "3", tool_call_id="call_7"),
        Message("assistant", "It is 3."),
    )

    assert [item["type"] for item in body["input"]] == [
        *("message", "message", "reasoning", "function_call", "function_call_output", "message")
    ]
    assert body["input"][2] == THOUGHT
    assert body["input"][3]["call_id"] == body["input"][4]["call_id"] == "call_7"
    assert body["input"][5]["content"] == "It is 3."
    assert (body["store"], body["include"]) == (False, ["reasoning.encrypted_content"])
    TypeAdapter(ResponseInputParam).validate_python(body["input"])


def test_images_and_files_are_sent_in_the_form_of_the_api() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:;base64,AA"}},
    ]
    body = sent(*parse_messages([{"role": "user", "content": parts}]))

    assert body["input"][0]["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "detail": "low", "image_url": "data:image/png;base64,AA"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:;base64,AA"},
    ]
    TypeAdapter(ResponseInputParam).validate_python(body["input"])


def test_a_function_is_strict_only_if_it_says_so() -> None:
    strict = ToolSpec("sub", parameters={"type": "object"}, strict=True)
    body = sent(Message("user", "x"), tools=(ADD, strict), tool_choice="add")

    assert [tool["strict"] for tool in body["tools"]] == [False, True]
    assert body["tools"][0]["name"] == "add"
    assert body["tool_choice"] == {"type": "function", "name": "add"}
    TypeAdapter(list[ToolParam]).validate_python(body["tools"])


def test_a_result_of_a_custom_tool_is_one_of_its_kind() -> None:
    call = ToolCall("c1", "shell", "ls -l", kind="custom")
    body = sent(
        Message("assistant", tool_calls=(call,)), Message("tool", "a.txt", tool_call_id="c1")
    )

    assert [item["type"] for item in body["input"]] == [
        "custom_tool_call",
        "custom_tool_call_output",
    ]
    assert body["input"][0]["input"] == "ls -l"


def test_options_are_where_the_api_has_them() -> None:
    body = sent(
        Message("user", "x"),
        sampling=Sampling(max_tokens=9, temperature=0.5, logprobs=True),
        response_format=ResponseFormat({"type": "object"}, name="sum"),
        extra={"reasoning_effort": "low", "verbosity": "low", "metadata": {"a": "b"}},
    )

    assert (body["max_output_tokens"], body["temperature"]) == (9, 0.5)
    assert body["text"]["format"]["type"] == "json_schema"
    assert body["text"]["format"]["name"] == "sum"
    assert body["text"]["verbosity"] == body["reasoning"]["effort"] == "low"
    assert body["metadata"] == {"a": "b"}
    assert "message.output_text.logprobs" in body["include"]


@pytest.mark.parametrize("setting", [{"stop": ("a",)}, {"seed": 1}, {"top_k": 3}, {"n": 2}])
def test_a_setting_that_the_api_lacks_is_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(setting))):
        sent(Message("user", "x"), sampling=Sampling(**setting))


# --- what is read ---------------------------------------------------------------------------------


async def test_thoughts_text_and_calls_come_back_whole(serve: Callable[..., StubServer]) -> None:
    message = Message(
        "assistant", "I add.", tool_calls=(CALL,), reasoning="Add them.", thinking=(THOUGHT,)
    )
    server = serve(Answer(message=message, usage={"input_tokens_details": {"cached_tokens": 1}}))

    async with connected(server, api="responses") as rig:
        end = await rig.end(await rig.run(ask(tools=(ADD,))))

    assert isinstance(end, Finished)
    got = end.completion
    assert (got.message.content, got.message.reasoning) == ("I add.", "Add them.")
    assert got.message.thinking == (THOUGHT,)
    assert got.tool_calls == (CALL,)
    assert (got.finish_reason, got.id) == (FinishReason.TOOL_CALLS, "resp_stub_1")
    assert (got.usage.input_tokens, got.usage.cached_tokens) == (2, 1)
    assert server.exchanges[0].path == "/v1/responses"


async def test_an_answer_at_its_limit_ends_by_length(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(), api="responses") as rig:
        end = await rig.end(await rig.run(ask(sampling=Sampling(max_tokens=3))))

    assert isinstance(end, Finished)
    assert end.completion.text == "Once upon a "
    assert end.completion.finish_reason is FinishReason.LENGTH
    assert end.completion.backend_finish_reason == "max_output_tokens"


def test_a_stream_without_fragments_gives_the_items_at_their_ends() -> None:
    reader = ResponseReader(LiveRun.of(Run(1, 1, ask(), Prepared(2, 9))), "stub")
    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
    text = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
    response = {"id": "r", "status": "completed", "usage": None}
    events = [
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.done", "output_index": 0, "item": text},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
        {"type": "response.web_search_call.searching", "output_index": 2},
        {"type": "response.completed", "response": response},
    ]
    for event in events:
        for progress in reader.read(event):
            reader._live.answer.add(progress.delta)

    got = reader.completion()
    assert (got.text, got.tool_calls) == ("Hello", (ToolCall("c", "add", "{}"),))
    assert got.usage.is_estimated
    assert reader.is_whole


async def test_a_document_in_place_of_a_stream_is_read(serve: Callable[..., StubServer]) -> None:
    document = {
        "object": "response",
        "id": "resp_9",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {"input_tokens": 2, "output_tokens": 1},
    }
    server = serve(Raw(json.dumps(document).encode(), "application/json"))

    async with connected(server, api="responses") as rig:
        end = await rig.end(await rig.run(ask()))

    assert isinstance(end, Finished)
    assert (end.completion.text, end.completion.usage.output_tokens) == ("Hi", 1)


def _stream_of(*events: dict[str, Any]) -> Raw:
    return Raw(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))


CREATED = {"type": "response.created", "response": {"id": "r"}}


async def test_a_failed_response_is_an_error_with_its_message(
    serve: Callable[..., StubServer],
) -> None:
    error = {"code": "server_error", "message": "the engine died"}
    server = serve(
        _stream_of(CREATED, {"type": "response.failed", "response": {"id": "r", "error": error}})
    )

    async with connected(server, api="responses") as rig:
        found = await failure(rig)

    assert isinstance(found, CoreError)
    assert "the engine died" in str(found)


async def test_a_rate_limit_within_a_response_is_one(serve: Callable[..., StubServer]) -> None:
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    server = serve(
        _stream_of(CREATED, {"type": "response.failed", "response": {"id": "r", "error": error}})
    )

    async with connected(server, api="responses") as rig:
        assert isinstance(await failure(rig), RateLimited)


@pytest.mark.parametrize(
    "events",
    [
        [CREATED],
        [CREATED, {"type": "response.output_text.delta", "delta": 7}],
        [CREATED, {"type": "response.function_call_arguments.delta", "output_index": 4}],
        [{"choices": []}],
        [["no", "object"]],
        [CREATED, {"type": "response.completed", "response": 3}],
    ],
)
async def test_a_broken_stream_is_an_error_and_never_an_answer(
    serve: Callable[..., StubServer], events: list[Any]
) -> None:
    async with connected(serve(_stream_of(*events)), api="responses") as rig:
        end = await rig.end(await rig.run(ask()))

    assert isinstance(end, Failed)


async def test_a_prompt_that_is_too_long_is_refused_as_such(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(context_window=3), api="responses") as rig:
        assert isinstance(await failure(rig, ask("a b c d e")), ContextOverflow)


# --- which API is used ----------------------------------------------------------------------------

ONLY_RESPONSES = Refuse(
    404, "This model is only supported in v1/responses and not in v1/chat/completions."
)


async def test_a_model_without_chat_completions_gets_the_other_api(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(lambda body: ONLY_RESPONSES if "messages" in body else Answer("hello"))

    async with connected(server) as rig:
        for _ in range(2):
            end = await rig.end(await rig.run(ask()))
            assert isinstance(end, Finished)
            assert end.completion.text == "hello"

    paths = [exchange.path.removeprefix("/v1/") for exchange in server.exchanges]
    assert paths == ["chat/completions", "responses", "responses"]


async def test_a_core_set_to_chat_does_not_use_the_other_api(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(ONLY_RESPONSES)
    async with connected(server, api="chat") as rig:
        assert isinstance(await failure(rig), ModelNotFound)

    assert len(server.exchanges) == 1


async def test_a_model_without_thoughts_is_asked_for_none_the_second_time(
    serve: Callable[..., StubServer],
) -> None:
    def behave(body: dict[str, Any]) -> Answer | Refuse:
        no = Refuse(400, "Encrypted content is not supported with this model.")
        return no if body.get("include") else Answer("hello")

    server = serve(behave)
    async with connected(server, api="responses") as rig:
        for _ in range(2):
            assert isinstance(await rig.end(await rig.run(ask())), Finished)

    assert [bool(exchange.body.get("include")) for exchange in server.exchanges] == [
        *(True, False, False)
    ]


async def test_a_budgets_limit_that_is_refused_is_left_out(
    serve: Callable[..., StubServer],
) -> None:
    def behave(body: dict[str, Any]) -> Answer | Refuse:
        no = Refuse(400, "max_output_tokens is too large")
        return no if "max_output_tokens" in body else Answer("hello")

    server = serve(behave)
    async with connected(server, api="responses") as rig:
        end = await rig.end(await rig.run(ask(), token_limit=4_000))

    assert isinstance(end, Finished)
    assert [exchange.body.get("max_output_tokens") for exchange in server.exchanges] == [
        4_000,
        None,
    ]
