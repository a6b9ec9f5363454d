"""Bound how long a call waits for memory, next to the calls that overtake it. Pure.

Small contexts go first, so a large one could wait forever. It is overdue when it has waited three
times as long as any small one lately: then no other new agent is admitted before it, and idle
agents leave for it. If it still waits after a while, active agents' calls wait too, so that the
memory drains.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from statistics import median_low
from typing import Final

_KEPT: Final = 64  # latest admissions of calls that had to wait
_FACTOR: Final = 3.0
_UNKNOWN_S: Final = 20.0  # longest wait of a small call, until a call that had to wait was admitted
_DRAIN_AFTER: Final = 1.2  # bounds


class Urgency(IntEnum):
    """A level of waiting for memory, compared to how long small contexts wait."""

    USUAL = 0
    OVERDUE = 1
    DRAINS = 2


class AdmissionWaits:
    """The waits of the latest calls that were admitted and had to wait for memory."""

    def __init__(self) -> None:
        self._waits: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # with the tokens of contexts

    def admitted(self, num_tokens: int, waited_s: float) -> None:
        """Record the admission of a call that had to wait."""
        self._waits.append((num_tokens, waited_s))

    def bound_s(self, ttl_s: float) -> float:
        """Return after how many seconds a call is overdue.

        That is never less than three times to live: serving an overdue call costs about as much
        as to compute one memory's worth of prompts, which takes one time to live. The waits of
        large contexts do not count, or the bound would grow with what it bounds.
        """
        longest_s = _UNKNOWN_S
        if self._waits:
            usual = median_low(num_tokens for num_tokens, _ in self._waits)
            longest_s = max(wait for num_tokens, wait in self._waits if num_tokens <= usual)
        return _FACTOR * max(longest_s, ttl_s)

    def drains_after_s(self, ttl_s: float) -> float:
        """Return after how many seconds other calls wait for an overdue one."""
        return _DRAIN_AFTER * self.bound_s(ttl_s)

    def urgency(self, waited_s: float, ttl_s: float) -> Urgency:
        """Return how urgent a call is that has waited so long."""
        bound = self.bound_s(ttl_s)
        if waited_s <= bound:
            return Urgency.USUAL
        return Urgency.OVERDUE if waited_s <= _DRAIN_AFTER * bound else Urgency.DRAINS
