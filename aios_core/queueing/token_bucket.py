"""Limit calls per time with token buckets. Pure: the caller passes the time."""

from __future__ import annotations

from typing import Protocol


class Rate(Protocol):
    """A rate limit: a number of calls in a number of seconds."""

    @property
    def calls(self) -> int:
        """The number of calls."""

    @property
    def per_s(self) -> float:
        """The period in seconds."""


class TokenBucket:
    """The calls that a rate limit still allows: full at first, refilled with time."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._tokens = float(rate.calls)
        self._at = now

    def ready_in(self, now: float) -> float:
        """Return the seconds until a call may start; 0: now."""
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) * self.rate.per_s / self.rate.calls)

    def take(self, now: float) -> None:
        """Take a token for a call that starts."""
        self._refill(now)
        self._tokens -= 1.0

    def _refill(self, now: float) -> None:
        gained = (now - self._at) * self.rate.calls / self.rate.per_s
        # Rounded, so that waiting for `ready_in` seconds is enough.
        self._tokens = min(float(self.rate.calls), round(self._tokens + gained, 9))
        self._at = now
