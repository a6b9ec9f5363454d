"""Tests of arguments in rules: `amount = {above = 100}`, `url = {not_host = ["*.org"]}`.

Each test is pure and returns True, False, or None if it cannot decide; `rules.py` defines
what None means. ``docs/explanation/security.md`` lists the tests, and a test compares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Operator:
    """A test of an argument, and the type of its operand."""

    test: Callable[[Any, Any], bool | None]
    operand: type | tuple[type, ...]
    allowed: str  # the operand, described for people
    is_list: bool = False  # the operand is a list of such


def _number(value: Any) -> float | None:
    """Convert a value to the number that a tool would read; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _above(value: Any, limit: float) -> bool | None:
    number = _number(value)
    return None if number is None else number > limit


def _below(value: Any, limit: float) -> bool | None:
    number = _number(value)
    return None if number is None else number < limit


def _is_in(value: Any, choices: list[Any]) -> bool:
    """Compare with each choice; numbers in texts count as numbers, outer spaces are ignored."""
    number, text = _number(value), _text(value)
    return any(
        value == choice
        or (number is not None and number == _number(choice))
        or (text is not None and text == _text(choice))
        for choice in choices
    )


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _like(value: Any, patterns: list[str]) -> bool | None:
    """Match patterns without regard to case, since addresses and names ignore it."""
    if not isinstance(value, str):
        return None
    text = value.strip().casefold()
    return any(fnmatchcase(text, pattern.casefold()) for pattern in patterns)


_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PLAIN_HOST: Final = re.compile(r"[\w.:\[\]-]+", re.ASCII)


def host_of(value: Any) -> str | None:
    """Return the host of a URL, "host" or "host:port"; None if it is not certain."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    if re.search(r"[\s\\\x00-\x1f]", text):  # programs do not agree on what these mean
        return None
    try:
        parts = urlsplit(text if _SCHEME.match(text) else f"//{text}")
        host = parts.hostname or ""
    except ValueError:
        return None
    try:
        host = host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    return host if host and _PLAIN_HOST.fullmatch(host) else None


def _host(value: Any, patterns: list[str]) -> bool | None:
    """Match hosts: "example.com" is that host only, "*.example.com" the hosts below it."""
    host = host_of(value)
    return None if host is None else any(fnmatchcase(host, one.lower()) for one in patterns)


def _longer(value: Any, limit: int) -> bool | None:
    return len(value) > limit if isinstance(value, str) else None


OPERATORS: Final[Mapping[str, Operator]] = {
    "above": Operator(_above, (int, float), "a number"),
    "below": Operator(_below, (int, float), "a number"),
    "in": Operator(_is_in, (str, int, float, bool), "a list of texts or numbers", is_list=True),
    "like": Operator(_like, str, "a list of patterns such as '*@example.com'", is_list=True),
    "host": Operator(_host, str, "a list of hosts such as '*.example.com'", is_list=True),
    "longer": Operator(_longer, int, "a number of characters"),
}
