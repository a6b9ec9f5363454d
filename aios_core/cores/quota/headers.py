"""Read the rate-limit headers of a response (OpenAI, Anthropic, Azure, gateways). Pure.

Headers are untrusted: a value that is not a number, negative or absurd counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aios_core.cores.quota.durations import seconds_of

_MOST: Final = 1e12  # calls or tokens; more is certainly a mistake
_LONGEST_S: Final = 31 * 86_400.0


class Dimension(StrEnum):
    """The kinds of amounts that a quota counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"  # of prompts and answers together
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of one dimension of a quota, as a response reports it."""

    dimension: Dimension
    remaining: float
    limit: float | None = None  # per window, a minute with most providers
    reset_s: float | None = None  # until nothing of it is used, in seconds


def _names(dimension: Dimension) -> tuple[tuple[str, str, str], ...]:
    """Return the names of the headers for limit, remaining and reset, in each spelling."""
    word = dimension.value.replace("_", "-")
    names = [_triple(f"x-ratelimit-{{}}-{word}"), _triple(f"anthropic-ratelimit-{word}-{{}}")]
    if dimension is Dimension.REQUESTS:
        names += [_triple("x-ratelimit-{}"), _triple("ratelimit-{}")]
    return tuple(names)


def _triple(template: str) -> tuple[str, str, str]:
    return template.format("limit"), template.format("remaining"), template.format("reset")


_HEADERS: Final = {dimension: _names(dimension) for dimension in Dimension}


def read_headers(headers: Mapping[str, str]) -> tuple[Reading, ...]:
    """Return a reading for each dimension that the headers report."""
    found = (_reading(dimension, headers) for dimension in Dimension)
    return tuple(reading for reading in found if reading is not None)


def _reading(dimension: Dimension, headers: Mapping[str, str]) -> Reading | None:
    for limit_name, remaining_name, reset_name in _HEADERS[dimension]:
        remaining = _amount(headers.get(remaining_name))
        if remaining is None:
            continue
        limit = _amount(headers.get(limit_name))
        if limit is not None and limit < 1:
            limit = None  # no quota admits less than one call
        if limit is not None:
            remaining = min(remaining, limit)
        return Reading(dimension, remaining, limit, _reset(headers.get(reset_name)))
    return None


def _amount(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value.partition(",")[0].partition(";")[0])
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number <= _MOST else None


def _reset(value: str | None) -> float | None:
    seconds = None if value is None else seconds_of(value)
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_S else None
