"""Measure how fast a core computes prompts, and for how long a context is worth its memory. Pure.

Keeping an idle context costs memory that another agent could use; dropping it costs computing it
again. Both are even when it has been idle for the time in which the core computes as many tokens
as its memory holds, no matter how long the context is (the five-minute rule of databases).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from aios_core.core import CoreLoad

UNKNOWN_TTL_S: Final = 5.0  # until a prompt was measured
_LEAST_TOKENS: Final = 64  # of a shorter prompt mostly the way there is measured
_KEPT: Final = 32  # latest measurements, of which the median counts
_MOST_SHARING: Final = 2  # prompts that may be computed at once, for a measurement


@dataclass(slots=True)
class PrefillRate:
    """The prompt tokens per second of one core."""

    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def learn(self, num_tokens: int, seconds: float, num_sharing: int) -> None:
        """Record that computing a prompt took so long, next to other prompts.

        Args:
            num_tokens: of the prompt, without those that were cached.
            seconds: from the start of the run to its first token.
            num_sharing: prompts that the core had to compute when it started, this one included.
        """
        if num_tokens < _LEAST_TOKENS or seconds <= 0 or num_sharing > _MOST_SHARING:
            return
        self._rates.append(num_tokens * num_sharing / seconds)

    def time_to_live(self, load: CoreLoad) -> float:
        """Return for how many seconds an idle context is worth its memory on the core."""
        rate = load.prefill_rate or (median(self._rates) if self._rates else None)
        if rate is None or rate <= 0 or load.kv_capacity is None:
            return UNKNOWN_TTL_S
        return load.kv_capacity / rate
