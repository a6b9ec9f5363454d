"""Check figures from outside against what the kernel knows, before they count.

Backends report tokens, memory and times. A figure that is impossible (negative, half a token,
not a number), absurd, or less than what the kernel has received is replaced by the kernel's
own count. Pure: the caller emits the event.
"""

from __future__ import annotations

from typing import Any, Final, Self

MOST_TOKENS: Final = 100_000_000  # of a context window, or of one answer


def whole_number(value: object, *, at_least: int = 0, at_most: int = MOST_TOKENS) -> int | None:
    """Return a reported count; None if it is not a whole number or out of range."""
    if type(value) is int:  # nearly always
        return value if at_least <= value <= at_most else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not at_least <= value <= at_most or value != int(value):  # false for nan, too
        return None
    return int(value)


def claimed_number(value: Any) -> Any:
    """Return a reported count as it came, for `check_usage` to judge; 0 for None.

    A value that is not a number becomes a `NoCount`.
    """
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        return NoCount(value)
    return value


class NoCount(int):
    """A claim that is not a count, such as "12" or nan. Counts as -1; its `repr` is the claim."""

    claim: str

    def __new__(cls, claim: object) -> Self:
        """Keep the claim as text."""
        number = super().__new__(cls, -1)
        number.claim = f"{claim!r:.40}"
        return number

    def __repr__(self) -> str:
        return self.claim

    def __add__(self, other: int) -> Self:
        return self

    __radd__ = __add__
