"""From tokens to text: whole characters, stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aios_core.cores.transformers.text import Answer, Detokenizer, StopStrings


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer with bytes as tokens."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_words(ids: Sequence[int]) -> str:
    """A tokenizer that puts blanks between tokens, and none before the first."""
    return " ".join(f"w{token}" for token in ids)


def test_a_character_comes_whole() -> None:
    detokenizer = Detokenizer(decode_bytes)

    assert [detokenizer.push(byte) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]


@given(st.text())
def test_all_text_comes_out(text: str) -> None:
    detokenizer = Detokenizer(decode_bytes)

    out = "".join(detokenizer.push(byte) for byte in text.encode()) + detokenizer.finish()

    assert out == text.rstrip("\ufffd")


def test_a_character_cut_off_at_the_end_is_left_out() -> None:
    detokenizer = Detokenizer(decode_bytes)
    said = [detokenizer.push(byte) for byte in "ok€".encode()[:-1]]

    assert "".join(said) + detokenizer.finish() == "ok"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    detokenizer = Detokenizer(decode_bytes)
    said = "".join(detokenizer.push(byte) for byte in [0xFF] * 40 + list(b"text"))

    assert said.endswith("text")


def test_tokens_are_decoded_in_their_company() -> None:
    detokenizer = Detokenizer(decode_words)

    assert [detokenizer.push(token) for token in (1, 2, 3)] == ["w1", " w2", " w3"]


def test_hidden_tokens_are_no_text() -> None:
    detokenizer = Detokenizer(decode_words, hidden={2})

    assert [detokenizer.push(token) for token in (1, 2, 3)] == ["w1", "", " w3"]


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["END", "EXIT"])

    assert stops.push("the E") == "the "
    assert stops.push("lder") == "Elder"
    assert stops.push(" EN") == " "
    assert stops.finish() == "EN"


def test_the_first_stop_string_ends_the_text() -> None:
    stops = StopStrings(["two", "one"])

    assert stops.push("zero one two") == "zero "
    assert stops.is_hit
    assert stops.push("three") == stops.finish() == ""


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_how_a_text_is_cut_does_not_move_its_end(text: str, stops: list[str]) -> None:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    filter_ = StopStrings(stops)

    out = "".join(filter_.push(char) for char in text) + filter_.finish()

    assert text.startswith(out)
    if not found:
        assert out == text
    else:
        assert filter_.is_hit
        assert not any(stop in out for stop in stops)


def test_an_answer_put_together_is_its_message() -> None:
    text = 'so: <tool_call>{"name": "f", "arguments": {}}</tool_call> and <tool'
    answer = Answer(Detokenizer(decode_bytes), (), key="k")
    deltas = [answer.push(byte) for byte in text.encode()]
    deltas.append(answer.finish())

    assert "".join(delta.text for delta in deltas) == answer.message().content == "so:  and <tool"
    assert [call.name for delta in deltas for call in delta.tool_calls] == ["f"]


def test_without_tools_a_call_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    answer = Answer(Detokenizer(decode_bytes), (), key=None)
    for byte in text.encode():
        answer.push(byte)

    assert answer.message().content == text
