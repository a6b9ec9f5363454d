"""Figures from outside are believed within reason; else the kernel's own are booked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.errors import Overloaded, RateLimited
from aios_core.messages import Usage
from aios_core.provider_reply import LONGEST_PAUSE_S, pause_of
from aios_core.scheduler.allowance import Evidence, check_usage
from aios_core.untrusted.reported_numbers import claimed_number, whole_number

SEEN = Evidence(
    prompt_tokens=100,
    max_prompt_tokens=400,
    context_window=8_000,
    output_tokens=50,
    min_output_tokens=40,
)
OWN = Usage(100, 50, is_estimated=True)


@pytest.mark.parametrize(
    "claimed",
    [Usage(100, 50), Usage(130, 40), Usage(8_000, 20_000), Usage(90, 60, 90, reasoning_tokens=10)],
)
def test_what_can_be_is_believed(claimed: Usage) -> None:
    judged = check_usage(claimed, SEEN)

    assert (judged.usage, judged.fault) == (claimed, "")


def test_a_whole_number_may_come_as_a_float() -> None:
    judged = check_usage(Usage(100.0, 50.0), SEEN)  # type: ignore[arg-type]

    assert judged.usage == Usage(100, 50)
    assert isinstance(judged.usage.output_tokens, int)


@pytest.mark.parametrize("claim", [-5, 12.5, math.nan, math.inf, 10**12, "50", None, True])
def test_a_prompt_or_answer_of_an_impossible_size_is_counted_by_the_kernel(claim: Any) -> None:
    for key in ("input_tokens", "output_tokens"):
        judged = check_usage(replace(Usage(100, 50), **{key: claim}), SEEN)

        assert judged.usage == OWN
        assert key in judged.fault


def test_an_answer_is_not_smaller_than_what_was_streamed() -> None:
    judged = check_usage(Usage(100, 39), SEEN)

    assert judged.usage.output_tokens == 50
    assert "40 or more arrived" in judged.fault


def test_an_answer_is_not_larger_than_what_was_allowed() -> None:
    judged = check_usage(Usage(100, 5_000), replace(SEEN, max_output_tokens=60))

    assert judged.usage.output_tokens == 50
    assert "60 were allowed" in judged.fault


def test_hidden_reasoning_may_be_far_more_than_what_is_shown() -> None:
    assert check_usage(Usage(100, 30_000), SEEN).fault == ""


@pytest.mark.parametrize("claim", [-1, 101, math.nan, 0.5])
def test_more_tokens_are_not_cached_than_the_prompt_has(claim: Any) -> None:
    judged = check_usage(Usage(100, 50, claim), SEEN)

    assert judged.usage == Usage(100, 50)
    assert "cached_tokens" in judged.fault


@given(
    st.lists(
        st.one_of(st.integers(), st.floats(allow_nan=True, allow_infinity=True), st.none()),
        min_size=7,
        max_size=7,
    )
)
def test_whatever_is_claimed_what_is_booked_makes_sense(claims: list[Any]) -> None:
    usage = check_usage(Usage(*claims), replace(SEEN, max_output_tokens=60)).usage

    assert 0 <= usage.cached_tokens <= usage.input_tokens <= 8_000
    assert 40 <= usage.output_tokens <= 60
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), (3.5, None), (-1, None), (math.nan, None), ("3", None), (True, None)],
)
def test_a_whole_number_is_told_from_everything_else(value: Any, number: int | None) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("value", "claim"), [(None, 0), ("7", -1), (math.nan, -1), (7, 7), (-2, -2)]
)
def test_a_claim_is_passed_on_as_it_came_if_it_is_a_number(value: Any, claim: int) -> None:
    assert claimed_number(value) == claim


@pytest.mark.parametrize(
    ("claim", "shown"), [("12", "'12'"), (math.nan, "nan"), (True, "True"), ({"a": 1}, "{'a': 1}")]
)
def test_a_claim_that_is_no_number_is_reported_as_it_was_written(claim: Any, shown: str) -> None:
    usage = Usage(1) + Usage(claimed_number(claim), claimed_number(claim), claimed_number(claim))
    judged = check_usage(usage, SEEN)

    assert judged.usage == OWN
    for key in ("input_tokens", "output_tokens", "cached_tokens"):
        assert f"{key}: claimed {shown}, which is not a count" in judged.fault


@pytest.mark.parametrize(
    ("claimed", "pause"),
    [
        (2.5, 2.5),
        (0, 0.0),
        (-3.0, 0.0),
        (math.nan, 1.0),
        (math.inf, LONGEST_PAUSE_S),
        (-math.inf, 0.0),
        (31_536_000, LONGEST_PAUSE_S),
        ("soon", 1.0),
        (None, 1.0),
    ],
)
def test_a_time_to_wait_is_brought_into_reason(claimed: Any, pause: float) -> None:
    assert pause_of(claimed) == pause
    assert RateLimited("busy", claimed).retry_after_s == pause
    assert Overloaded("queue", 5, claimed).retry_after_s == pause


def test_a_time_to_wait_that_is_set_later_is_brought_into_reason_too() -> None:
    error = RateLimited("busy", 1.0)
    error.retry_after_s = math.nan

    assert error.retry_after_s == 1.0
