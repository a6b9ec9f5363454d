"""Messages of agents and models: OpenAI's shapes in and out, and clear refusals."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core import (
    InvalidRequest,
    Message,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolSpec,
    build_llm_request,
)
from aios_core.messages import Delta, ToolCallDelta, Usage, parse_messages, parse_tools

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["role", "content", "tool_calls", "tool_call_id", "name", "function", "type"]
)
CALLS = st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT)
MESSAGES = st.one_of(
    st.builds(
        Message, role=st.sampled_from(["system", "user"]), content=TEXT, name=st.none() | TEXT
    ),
    st.builds(
        Message, role=st.just("assistant"), content=TEXT, tool_calls=st.lists(CALLS).map(tuple)
    ),
    st.builds(Message, role=st.just("tool"), content=TEXT, tool_call_id=TEXT),
)


# --- round trips ----------------------------------------------------------------------------------


@given(MESSAGES)
def test_a_message_survives_openais_format(message: Message) -> None:
    assert Message.from_dict(message.to_dict()) == message


def test_a_tool_survives_openais_format() -> None:
    tool = ToolSpec("add", "adds", {"type": "object", "properties": {"a": {"type": "number"}}})

    assert ToolSpec.from_dict(tool.to_dict()) == tool
    assert ToolSpec.from_dict(tool.to_dict()["function"]) == tool, "the envelope may be missing"


def test_a_text_is_one_user_turn() -> None:
    assert parse_messages("hi") == (Message("user", "hi"),)


def test_text_parts_are_joined() -> None:
    content = [{"type": "text", "text": "one "}, "two"]

    assert Message.from_dict({"role": "user", "content": content}).content == "one two"


def test_arguments_that_come_as_an_object_become_json() -> None:
    raw = {"id": "c", "function": {"name": "add", "arguments": {"a": 1}}}

    assert Message.from_dict({"role": "assistant", "tool_calls": [raw]}).tool_calls == (
        ToolCall("c", "add", '{"a": 1}'),
    )


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3) + Usage(10, 20, 30)

    assert total == Usage(11, 22, 33)
    assert total.total_tokens == 33, "cached tokens are part of the input"


def test_an_empty_delta_is_false() -> None:
    assert not Delta()
    assert Delta("x")
    assert Delta(tool_calls=(ToolCallDelta(0),))


# --- refusals -------------------------------------------------------------------------------------


@given(st.dictionaries(KEYS, JSON) | JSON)
def test_whatever_comes_is_read_or_refused(raw: Any) -> None:
    for read in (Message.from_dict, ToolSpec.from_dict, parse_messages, parse_tools):
        with suppress(InvalidRequest):
            read(raw)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tools": JSON,
            "tool_choice": JSON,
            "response_format": JSON,
            "max_tokens": JSON,
            "temperature": JSON,
            "top_p": JSON,
            "top_k": JSON,
            "seed": JSON,
            "stop": JSON,
            "extra": JSON,
            "model": JSON,
        },
    )
)
def test_whatever_the_arguments_are_the_request_is_built_or_refused(
    arguments: dict[str, Any],
) -> None:
    with suppress(InvalidRequest):
        build_llm_request("hi", **arguments)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"role": "wizard", "content": "hi"}, "role: got 'wizard'"),
        ({"content": "hi"}, "needs a 'role'"),
        ({"role": "user", "content": 5}, "content must be text"),
        ({"role": "user", "content": [5]}, "content part.*got 5"),
        ({"role": "user", "content": [{"type": "text"}]}, "text part needs a 'text'"),
        ({"role": "user", "tool_calls": [{"function": {}}]}, "not a tool call"),
        ({"role": "assistant", "tool_calls": 5}, "tool_calls"),
    ],
)
def test_a_malformed_message_is_refused_with_its_position(raw: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=f"message 1: .*{why}"):
        parse_messages([Message("user", "fine"), raw])


@pytest.mark.parametrize("nothing", ["", " \n", (), [Message("user", "")]], ids=str)
def test_an_empty_prompt_is_for_the_backend_to_judge(nothing: Any) -> None:
    assert "".join(message.content for message in parse_messages(nothing)).strip() == ""


def test_a_user_cannot_call_tools() -> None:
    with pytest.raises(InvalidRequest, match="cannot call tools"):
        Message("user", "hi", tool_calls=(ToolCall("c", "add", "{}"),))


@pytest.mark.parametrize("arguments", ["{", "[1]", '"text"', "nul"])
def test_arguments_that_are_no_object_are_refused_when_they_are_read(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match="arguments of 'add'"):
        ToolCall("c", "add", arguments).parsed_arguments()


def test_no_arguments_are_an_empty_object() -> None:
    assert ToolCall("c", "now", "").parsed_arguments() == {}


@pytest.mark.parametrize("schema", [{"type": "array"}, "object", None, 5], ids=repr)
def test_a_tool_with_a_broken_schema_is_refused_by_name(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="tool 'add'"):
        ToolSpec("add", parameters=schema)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"twice: \['add'\]"):
        parse_tools([ToolSpec("add"), ToolSpec("add"), ToolSpec("sub")])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("stop", ("",)),
    ],
)
def test_a_bad_sampling_setting_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{setting}: got .*; allowed: "):
        Sampling(**{setting: value})


@pytest.mark.parametrize(
    "bad",
    [
        {"tool_choice": "sub", "tools": [ToolSpec("add")]},
        {"tool_choice": "required"},
        {"tools": "add"},
        {"response_format": "json"},
    ],
    ids=repr,
)
def test_what_does_not_fit_together_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        build_llm_request("hi", **bad)


@pytest.mark.parametrize("argument", ["response_format", "tools", "extra"])
def test_what_is_nested_too_deep_is_refused_by_name(argument: str) -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(5_000):
        deep = {"anyOf": [deep]}
    given = [{"name": "add", "parameters": deep}] if argument == "tools" else deep

    with pytest.raises(InvalidRequest, match="nested deeper than"):
        build_llm_request("hi", **{argument: given})


def test_a_request_takes_what_callers_write() -> None:
    built = build_llm_request(
        "hi", stop="END", response_format={"type": "object"}, tools=[{"name": "add"}]
    )

    assert built.sampling.stop == ("END",)
    assert built.response_format == ResponseFormat({"type": "object"})
    assert built.tools[0].name == "add"
