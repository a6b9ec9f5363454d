"""Tool calls in a stream of text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.cores.deltas import assemble
from aios_core.cores.hermes import ToolCallParser, parse_call
from aios_core.messages import Delta

CALL = '<tool_call>{"name": "add", "arguments": {"a":  1, "b": "}"}}</tool_call>'
NEVER_CALLS = [
    "<tool_call>not json</tool_call>",
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {}} and more</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {},}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {',
    "<tool_cal",
    "a < b",
]


def parse(text: str, cuts: list[int] | None = None) -> list[Delta]:
    """Return what a parser emits for each part of a text, and at its end."""
    parser = ToolCallParser("key")
    places = [0, *sorted(cuts or ()), len(text)]
    parts = [text[a:b] for a, b in pairwise(places)]
    return [*(parser.push(part) for part in parts), parser.finish()]


def test_text_passes_at_once() -> None:
    assert parse("plain text")[0].text == "plain text"


def test_text_that_may_become_a_call_is_held_back() -> None:
    parser = ToolCallParser()

    assert parser.push("see <tool").text == "see "
    assert parser.push("box>").text == "<toolbox>"


def test_a_call_passes_when_it_is_complete_with_its_arguments_as_written() -> None:
    parser = ToolCallParser()

    assert not parser.push(CALL[:-1])
    (call,) = parser.push(CALL[-1]).tool_calls
    assert (call.index, call.name, call.arguments) == (0, "add", '{"a":  1, "b": "}"}')


def test_calls_count_up_and_have_different_ids() -> None:
    calls = assemble(parse(CALL + "\n" + CALL)).tool_calls

    assert [call.name for call in calls] == ["add", "add"]
    assert calls[0].id != calls[1].id
    assert all(call.id.startswith("call_") for call in calls)


def test_equal_keys_give_equal_ids() -> None:
    assert assemble(parse(CALL)).tool_calls == assemble(parse(CALL)).tool_calls


def test_white_space_around_calls_is_no_text() -> None:
    assert assemble(parse(f"Let me see.{CALL}\n{CALL}\n")).text == "Let me see."


def test_text_behind_a_call_is_kept_with_its_space() -> None:
    assert assemble(parse(f"{CALL}\nDone.")).text == "\nDone."


@pytest.mark.parametrize("text", NEVER_CALLS)
def test_what_only_looks_like_a_call_is_plain_text(text: str) -> None:
    answer = assemble(parse(text))

    assert answer.text == text
    assert not answer.tool_calls


def test_a_call_without_arguments_has_none() -> None:
    assert parse_call('{"name": "now"}') == ("now", "{}")


def test_arguments_in_quotes_are_unpacked() -> None:
    body = '{"name": "add", "arguments": "{\\"a\\": 1}"}'

    assert parse_call(body) == ("add", '{"a": 1}')


def test_members_may_come_in_any_order_and_with_others() -> None:
    assert parse_call('{"id": 1, "arguments": {"a": 1} , "name": "add"}') == ("add", '{"a": 1}')


@given(st.data())
def test_how_a_text_is_cut_changes_nothing(data: st.DataObject) -> None:
    pieces = st.sampled_from([CALL, *NEVER_CALLS, "text ", "\n", "<"])
    text = "".join(data.draw(st.lists(pieces, max_size=4)))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))

    whole, cut = assemble(parse(text)), assemble(parse(text, cuts))

    assert (cut.text, cut.tool_calls) == (whole.text, whole.tool_calls)
