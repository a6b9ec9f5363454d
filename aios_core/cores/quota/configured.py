"""The limits that a configuration sets for endpoints that report none. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from aios_core.cores.quota.headers import Dimension

Number = TypeVar("Number", int, float)

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class QuotaOptions:
    """The options of a core about its quota. Raises `ValueError` for impossible ones.

    Args:
        quota: a name; all cores and embedders with this name draw on one quota. None: those with
            the same endpoint, key and model do.
        requests_per_minute: calls that may start in a minute.
        tokens_per_minute: tokens of prompts and answers that calls may use in a minute.
        max_concurrent: calls in flight at once.
    """

    quota: str | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        if self.quota is not None and not self.quota:
            raise ValueError("quota is empty; give it a name, or leave it out")
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value!r}; give a number above 0")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ValueError(f"max_concurrent is {self.max_concurrent!r}; give 1 or more")

    def tightened(self, other: QuotaOptions) -> QuotaOptions:
        """Return the smaller of each limit, for cores that share a quota and differ in limits."""
        return QuotaOptions(
            self.quota or other.quota,
            _smaller(self.requests_per_minute, other.requests_per_minute),
            _smaller(self.tokens_per_minute, other.tokens_per_minute),
            _smaller(self.max_concurrent, other.max_concurrent),
        )

    def buckets(self, now: float) -> dict[Dimension, PacedBucket]:
        """Return a bucket for each configured rate."""
        rates = {
            Dimension.REQUESTS: self.requests_per_minute,
            Dimension.TOKENS: self.tokens_per_minute,
        }
        return {one: PacedBucket(rate / _MINUTE_S, now) for one, rate in rates.items() if rate}


def _smaller(one: Number | None, other: Number | None) -> Number | None:
    return min((value for value in (one, other) if value is not None), default=None)


class PacedBucket:
    """A token bucket that holds one second of its rate, and at least one call.

    It may be in debt, by a call that costs more than it can hold, or more than was estimated.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._capacity = max(1.0, rate)
        self._level = self._capacity
        self._at = now

    def __repr__(self) -> str:
        return f"<PacedBucket {self._level:.3g} of {self._capacity:.3g}, {self.rate:.3g}/s>"

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until a call of this cost may leave; 0: now."""
        missing = min(cost, self._capacity) - self._refilled(now)
        return max(0.0, missing) / self.rate

    def spend(self, now: float, cost: float) -> None:
        """Take the cost of a call; a negative cost is put back."""
        self._level = min(self._refilled(now) - cost, self._capacity)
        self._at = now

    def _refilled(self, now: float) -> float:
        return min(self._capacity, self._level + (now - self._at) * self.rate)
