"""Read the times in a server's headers: seconds, "6m0s", "20ms", a date, or a Unix time.

Pure, apart from the clock that dates are compared with. Sources: RFC 9110 (Retry-After, section
10.2.3), OpenAI's and Anthropic's guides to rate limits. Values are untrusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_FIRST_INSTANT_S: Final = 1e9  # a larger number (30 years) is a Unix time, not a duration
_FIRST_INSTANT_MS: Final = 1e12  # ... and from here on one in milliseconds
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S: Final = {
    "d": 86_400.0,
    "h": 3_600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}


def seconds_of(
    value: str, unit_s: float = 1.0, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> float | None:
    """Return the seconds from now that a header names; None if it cannot be read.

    Past instants give a negative number. `unit_s` is the unit of a plain number.
    """
    try:
        number = float(value) * unit_s
    except ValueError:
        if (duration := _duration(value)) is not None:
            return duration
        due = _instant(value)
        return None if due is None else (due - now()).total_seconds()
    if math.isnan(number):
        return None
    if _FIRST_INSTANT_S <= number < math.inf:
        number = number * 1e-3 if number >= _FIRST_INSTANT_MS else number
        return number - now().timestamp()
    return number


def _duration(value: str) -> float | None:
    """Parse a duration as Go prints it, such as 1h2m3.5s."""
    text = value.strip().lower()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return math.fsum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _instant(value: str) -> datetime | None:
    """Parse a date as servers write it; in UTC if it names no zone."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            due = parse(value.strip())
            return due if due.tzinfo is not None else due.replace(tzinfo=UTC)
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
