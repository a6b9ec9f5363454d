"""Follow one dimension of a quota by what the responses report about it. Pure.

A reading is the state right after its own call was counted, and it arrives late. Every call that
left after that one is therefore subtracted, whether it was answered or not, and what was refilled
since is added.
"""

from __future__ import annotations

from typing import Final

from aios_core.cores.quota.headers import Reading

WINDOW_S: Final = 60.0  # of a limit, unless its reset shows a slower refill
_ROUNDED_S: Final = 1.0  # servers round resets up to whole seconds
_SLACK_SHARE: Final = 0.01  # of the capacity, not used: readings are rounded
_SIGNIFICANT: Final = 3.0  # units of refill that must have shown, if the refill is continuous


class ReportedBucket:
    """The amount that a quota holds in one dimension, between and after its readings.

    Some servers refill continuously, others at once when a window ends. The readings show which:
    the amount grows between two of them, or it does not.
    """

    def __init__(self) -> None:
        self._reading: Reading | None = None
        self._number = -1  # of the call that the reading belongs to
        self._at = 0.0  # when the server had this amount
        self._spent_before = 0.0  # by us, up to and including that call
        self._spent = 0.0  # by us in all
        self._num_after = 0  # calls that have left since the reading arrived
        self._rate = 0.0  # per second
        self._capacity = 0.0
        self._is_windowed = False
        self._margin = 0.0

    def __repr__(self) -> str:
        return f"<ReportedBucket {self._reading}, {self._rate:.3g}/s, spent {self._spent:.6g}>"

    @property
    def rate(self) -> float:
        """The amount that is refilled in a second."""
        return self._rate

    @property
    def spent(self) -> float:
        """The amount that calls have taken in all."""
        return self._spent

    def spend(self, cost: float) -> float:
        """Take the cost of a call that leaves. Returns what all calls up to it have taken."""
        self._spent += cost
        self._num_after += 1
        return self._spent

    def read(self, reading: Reading, *, number: int, spent: float, at: float) -> None:
        """Take over a reading of call `number`, after which `spent` had been taken, at a time."""
        if number < self._number:
            return  # older than the one known
        before = self._reading
        if before is not None:
            self._learn_refill(before, reading, spent - self._spent_before, at - self._at)
        self._reading, self._number = reading, number
        self._at, self._spent_before = at, spent
        self._num_after = 0
        self._rate = _rate_of(reading)
        seen = max(reading.remaining, self._capacity if before is not None else 0.0)
        if reading.reset_s is None:
            self._capacity = min(seen, reading.limit or seen)
        else:
            full = reading.remaining + self._rate * reading.reset_s
            self._capacity = full if reading.limit is None else min(full, reading.limit)
        self._capacity = max(self._capacity, 1.0)  # else an empty bucket would never fill again
        self._margin = max(self._margin, 1.0, _SLACK_SHARE * self._capacity)

    def level(self, now: float) -> float:
        """Return what is left for further calls, as far as is known."""
        reading = self._reading
        if reading is None:
            return float("inf")
        age_s = max(0.0, now - self._at)
        taken = self._spent - self._spent_before
        is_reset = reading.reset_s is not None and age_s >= reading.reset_s
        if self._is_windowed:
            refilled = (reading.limit or self._capacity) - reading.remaining if is_reset else 0.0
        else:
            refilled = self._rate * age_s
            if is_reset and not self._rate:
                refilled = self._capacity
        return min(self._capacity_now(is_reset), reading.remaining + refilled) - taken

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until the bucket holds the cost of a call; 0: it does now.

        A call that costs more than the bucket can hold leaves when the bucket is full.
        """
        reading = self._reading
        if reading is None or not cost:
            return 0.0
        wanted = min(cost + self._margin, max(self._capacity, 1.0))
        missing = wanted - self.level(now)
        if missing <= 0:
            return 0.0
        if self._is_windowed or not self._rate:
            return self._wait_for_window_s(now)
        return missing / self._rate

    def _wait_for_window_s(self, now: float) -> float:
        """Return the seconds to the end of the window; later, let one call through in each."""
        length_s = WINDOW_S if self._reading is None else self._reading.reset_s or WINDOW_S
        return max(0.0, self._at + length_s + WINDOW_S * self._num_after - now)

    def widen_margin(self) -> None:
        """Keep more in reserve, since a call was refused that should have fitted."""
        self._margin = min(self._margin * 1.5, max(1.0, self._capacity * 0.2))

    def _capacity_now(self, is_reset: bool) -> float:
        if self._is_windowed and is_reset and self._reading is not None:
            return self._reading.limit or self._capacity
        return self._capacity

    def _learn_refill(
        self, before: Reading, after: Reading, taken: float, elapsed_s: float
    ) -> None:
        """Compare two readings: did the amount grow between them, and before the reset?"""
        if before.reset_s is None or elapsed_s >= before.reset_s:
            return
        grown = after.remaining - (before.remaining - taken)
        if grown > _SIGNIFICANT:
            self._is_windowed = False
        elif self._rate * elapsed_s > 2 * _SIGNIFICANT and grown < 1.0 and before.remaining > taken:
            self._is_windowed = before.reset_s - _reset_of(after) > 0.5 * elapsed_s


def _reset_of(reading: Reading) -> float:
    """Return the seconds to the reset of a reading; infinity if it names none."""
    return float("inf") if reading.reset_s is None else reading.reset_s


def _rate_of(reading: Reading) -> float:
    """Return the refill per second: of a minute's limit, or slower if the reset shows that."""
    if reading.limit is None:
        return 0.0
    rate = reading.limit / WINDOW_S
    used, reset_s = reading.limit - reading.remaining, reading.reset_s
    if reset_s is not None and used > 0 and reset_s > _ROUNDED_S:
        rate = min(rate, used / (reset_s - _ROUNDED_S))
    return rate
