"""Check figures from outside against what the kernel knows, before they count.

Backends report tokens, memory and times. A figure that is impossible (negative, half a token,
not a number), absurd, or less than what the kernel has received is replaced by the kernel's
own count. Pure: the caller emits the event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Self

from aios_core.messages import Usage

MOST_TOKENS: Final = 100_000_000  # of a context window, or of one answer
_HIDDEN_PROMPT: Final = 16_384  # tokens that a backend may put before ours: templates, safety rules
_HIDDEN_OUTPUT: Final = 65_536  # tokens of reasoning that no backend has to show


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


@dataclass(frozen=True, slots=True)
class Evidence:
    """The kernel's own figures for one call."""

    prompt_tokens: int  # counted or estimated
    max_prompt_tokens: int  # an upper bound from the texts
    context_window: int
    output_tokens: int  # counted or estimated
    min_output_tokens: int  # that have certainly arrived
    max_output_tokens: int | None = None  # that the answer may have; None: no limit
    is_exact: bool = False  # whether the counts are those of the model's own tokenizer

    def usage(self) -> Usage:
        """The kernel's own count."""
        is_estimated = not self.is_exact
        return Usage(self.prompt_tokens, self.output_tokens, is_estimated=is_estimated)


@dataclass(frozen=True, slots=True)
class Judged:
    """The usage to book, and why it is not the one that was claimed; "" if it is."""

    usage: Usage
    fault: str = ""


def check_usage(claimed: Usage, evidence: Evidence) -> Judged:
    """Check a reported usage. Replaces each figure that cannot be true by the kernel's own."""
    faults: dict[str, str] = {}
    if fault := _fault_of_prompt(claimed.input_tokens, evidence):
        faults["input_tokens"] = fault
        claimed = replace(
            claimed, input_tokens=evidence.prompt_tokens, is_estimated=not evidence.is_exact
        )
    if fault := _fault_of_output(claimed.output_tokens, evidence):
        faults["output_tokens"] = fault
        claimed = replace(
            claimed, output_tokens=evidence.output_tokens, is_estimated=not evidence.is_exact
        )
    for key, fault in _faults_of_parts(claimed):
        faults[key] = fault
        none: dict[str, Any] = {key: 0}
        claimed = replace(claimed, **none)
    if set(map(type, _counts_of(claimed))) != {int}:
        claimed = replace(claimed, **_whole(claimed))
    if not faults:
        return Judged(claimed)
    return Judged(claimed, "; ".join(f"{key}: {fault}" for key, fault in faults.items()))


def _fault_of_prompt(claim: object, known: Evidence) -> str:
    number = whole_number(claim)
    if number is None:
        return f"claimed {claim!r:.40}, which is not a count"
    most = min(4 * known.max_prompt_tokens + _HIDDEN_PROMPT, max(known.context_window, 1))
    if number > max(most, known.prompt_tokens):
        return f"claimed {number:,}, and the prompt has about {known.prompt_tokens:,}"
    if number == 0 and known.prompt_tokens:
        return f"claimed none, and the prompt has about {known.prompt_tokens:,}"
    return ""


def _fault_of_output(claim: object, known: Evidence) -> str:
    number = whole_number(claim)
    if number is None:
        return f"claimed {claim!r:.40}, which is not a count"
    if number < known.min_output_tokens:
        return f"claimed {number:,}, and {known.min_output_tokens:,} or more arrived"
    limit = known.max_output_tokens
    if limit is not None and number > limit:
        return f"claimed {number:,}, and {limit:,} were allowed"
    if limit is None and number > 16 * known.output_tokens + _HIDDEN_OUTPUT:
        return f"claimed {number:,}, and about {known.output_tokens:,} arrived"
    return ""


#: The figures that are a part of another one.
_PARTS: Final = {
    "cached_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "audio_input_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "audio_output_tokens": "output_tokens",
}
_COUNTS: Final = ("input_tokens", "output_tokens", *_PARTS)
_counts_of: Final = attrgetter(*_COUNTS)


def _faults_of_parts(claimed: Usage) -> Iterator[tuple[str, str]]:
    for key, of in _PARTS.items():
        if (claim := getattr(claimed, key)) == 0:
            continue
        whole = getattr(claimed, of)
        number = whole_number(claim)
        if number is None:
            yield key, f"claimed {claim!r:.40}, which is not a count"
        elif number > whole:
            yield key, f"claimed {number:,} of {whole:,} {of}"


def _whole(usage: Usage) -> dict[str, Any]:
    """Return the counts as integers: some servers send 12.0."""
    return {key: int(getattr(usage, key)) for key in _COUNTS}
