"""Rate-limit headers are read in every spelling, and absurd ones count as absent."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.cores.quota.durations import seconds_of
from aios_core.cores.quota.headers import Dimension, Reading, read_headers

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("59.5", 59.5),
        ("2026-01-01T00:00:30Z", 30.0),
        ("Thu, 01 Jan 2026 00:00:10 GMT", 10.0),
        (str(NOW.timestamp() + 5), 5.0),
        (str(int(NOW.timestamp() + 5) * 1000), 5.0),
        ("2025-12-31T23:59:00Z", -60.0),
    ],
)
def test_every_way_of_writing_a_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text, now=lambda: NOW) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "nan", "6m-1s", "1x"])
def test_a_time_that_cannot_be_read_is_none(text: str) -> None:
    assert seconds_of(text) is None


def test_the_headers_of_openai_are_read() -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-remaining-tokens": "29000",
    }

    assert read_headers(headers) == (
        Reading(Dimension.REQUESTS, 499, 500, 0.12),
        Reading(Dimension.TOKENS, 29_000),
    )


def test_the_headers_of_anthropic_are_read() -> None:
    full_at = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    headers = {
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "20000",
        "anthropic-ratelimit-input-tokens-reset": full_at,
    }

    (reading,) = read_headers(headers)

    assert reading.dimension is Dimension.INPUT_TOKENS
    assert reading.reset_s == pytest.approx(30, abs=5)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e99", "many", ""])
def test_an_absurd_amount_counts_as_absent(value: str) -> None:
    assert read_headers({"x-ratelimit-remaining-requests": value}) == ()


@given(st.dictionaries(st.sampled_from(["limit", "remaining", "reset"]), st.text(max_size=20)))
def test_no_header_makes_a_reading_that_is_not_a_number(parts: dict[str, str]) -> None:
    headers = {f"x-ratelimit-{part}-requests": value for part, value in parts.items()}

    for reading in read_headers(headers):
        assert math.isfinite(reading.remaining)
        assert reading.remaining >= 0
        assert reading.reset_s is None or 0 <= reading.reset_s < math.inf
