"""Answers of the Anthropic core that satisfy a JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aios_core.messages import (
    FinishReason,
    ResponseFormat,
    ToolCall,
)
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer

from .rig import ADD, CALL, ask, connected

Serve = Callable[..., AnthropicStubServer]

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


async def test_a_schema_goes_to_structured_outputs(serve: Serve) -> None:
    server = serve(Answer('{"sum": 3}'))
    async with connected(server) as rig:
        completion = await rig.generate(ask(response_format=ResponseFormat(SCHEMA)))
    form = server.exchanges[0].body["output_config"]["format"]

    assert completion.text == '{"sum": 3}'
    assert form["schema"]["additionalProperties"] is False
    assert "tools" not in server.exchanges[0].body


@pytest.mark.parametrize("wanted", [ResponseFormat(), ResponseFormat({"type": "object"})])
async def test_an_open_object_is_the_arguments_of_a_tool(
    serve: Serve, wanted: ResponseFormat
) -> None:
    server = serve(lambda body: Answer("", (ToolCall("t", body["tools"][0]["name"], '{"a": 1}'),)))
    async with connected(server) as rig:
        run = await rig.run(ask(response_format=wanted))
        completion = await rig.answer(run)
    body = server.exchanges[0].body

    assert completion.text == '{"a": 1}'
    assert completion.tool_calls == ()
    assert completion.finish_reason is FinishReason.STOP
    assert body["tool_choice"]["name"] == body["tools"][0]["name"] == "answer"


async def test_a_model_without_structured_outputs_is_given_a_tool(serve: Serve) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return Answer("", (ToolCall("t", body["tools"][0]["name"], '{"sum": 3}'),))

    for probe in (True, False):
        server = serve(answer, structured_outputs=False, max_output=32_000)
        async with connected(server, probe=probe) as rig:
            completion = await rig.generate(ask(response_format=ResponseFormat(SCHEMA)))
        assert completion.text == '{"sum": 3}'


async def test_beside_tools_the_model_answers_or_calls_one_of_them(serve: Serve) -> None:
    server = serve(Answer("", (CALL,)), structured_outputs=False)
    async with connected(server) as rig:
        request = ask(tools=(ADD,), response_format=ResponseFormat(SCHEMA, "add"))
        completion = await rig.generate(request)
    body = server.exchanges[0].body

    assert completion.tool_calls == (CALL,)
    assert [tool["name"] for tool in body["tools"]] == ["add", "add_"]
    assert body["tool_choice"] == {"type": "any"}
