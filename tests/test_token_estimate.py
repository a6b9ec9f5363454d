"""Tokens without a tokenizer: a bound from below, and an estimate that learns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.messages import Message, ToolSpec
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import TokenRatio, at_least, prompt_bytes


@pytest.mark.parametrize(
    ("text", "num_tokens"),
    [
        ("", 0),
        (" ", 1),
        ("hello", 1),
        (" internationalization", 1),
        ("one two three", 3),
        ("x" * 2_400, 100),
        ("漢字かな", 3),
    ],
)
def test_a_text_has_at_least_a_token_a_word_and_one_for_24_bytes(
    text: str, num_tokens: int
) -> None:
    assert at_least(text) == num_tokens


def test_before_anything_is_known_a_token_has_four_bytes() -> None:
    assert TokenRatio().tokens_in("word " * 80) == 100


def test_a_ratio_is_learned_from_prompts_and_kept_within_reason() -> None:
    ratio = TokenRatio()
    ratio.learn(6_000, 1_000)
    assert ratio.bytes_per_token == 6.0

    ratio.learn(1_000_000, 1)
    assert ratio.bytes_per_token == 8.0


def test_what_is_too_short_teaches_nothing() -> None:
    ratio = TokenRatio()
    ratio.learn(10, 10)
    ratio.learn(1_000, 0)

    assert ratio.bytes_per_token == 4.0


def test_everything_that_a_model_reads_counts() -> None:
    plain = LLMGenerate((Message("user", "hello"),))
    tools = LLMGenerate((Message("user", "hello"),), tools=(ToolSpec("add", "adds numbers"),))

    assert prompt_bytes(plain) == 5
    assert prompt_bytes(tools) > 50
    assert TokenRatio().prompt_tokens(plain) == 5


@given(st.text(), st.integers(0, 50))
def test_the_start_of_a_text_has_no_more_than_so_many_tokens(text: str, num_tokens: int) -> None:
    start = TokenRatio().start_of(text, num_tokens)

    assert text.startswith(start)
    assert TokenRatio().tokens_in(start) <= num_tokens


def test_the_start_of_a_text_is_not_needlessly_short() -> None:
    assert TokenRatio().start_of("word " * 100, 50) == "word " * 40 + "wo"
