"""Bound how long a call waits for memory, next to the calls that overtake it. Pure.

Small contexts go first, so a large one could wait forever. It is overdue when it has waited three
times as long as calls usually wait: then no other new agent is admitted before it, and idle
agents leave for it. If it still waits after a while, active agents' calls wait too, so that the
memory drains.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from statistics import median
from typing import Final

_KEPT: Final = 64  # latest admissions of calls that had to wait
_FACTOR: Final = 3.0
_UNKNOWN_S: Final = 20.0  # usual wait, until a call that had to wait was admitted
_DRAIN_AFTER: Final = 1.2  # bounds


class Urgency(IntEnum):
    """A level of waiting for memory, compared to how long others usually wait."""

    USUAL = 0
    OVERDUE = 1
    DRAINS = 2


class AdmissionWaits:
    """The waits of the latest calls that were admitted and had to wait for memory."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=_KEPT)

    def admitted(self, waited_s: float) -> None:
        """Record the admission of a call that had to wait."""
        self._waits.append(waited_s)

    def bound_s(self, ttl_s: float) -> float:
        """Return after how many seconds a call is overdue.

        That is never less than three times to live: serving an overdue call costs about as much
        as to compute one memory's worth of prompts, which takes one time to live.
        """
        usual_s = median(self._waits) if self._waits else _UNKNOWN_S
        return _FACTOR * max(usual_s, ttl_s)

    def drains_after_s(self, ttl_s: float) -> float:
        """Return after how many seconds other calls wait for an overdue one."""
        return _DRAIN_AFTER * self.bound_s(ttl_s)

    def urgency(self, waited_s: float, ttl_s: float) -> Urgency:
        """Return how urgent a call is that has waited so long."""
        bound = self.bound_s(ttl_s)
        if waited_s <= bound:
            return Urgency.USUAL
        return Urgency.OVERDUE if waited_s <= _DRAIN_AFTER * bound else Urgency.DRAINS
