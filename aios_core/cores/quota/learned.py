"""Learn the rate of a quota from its refusals, where the endpoint reports nothing. Pure.

At a refusal the server's bucket is empty. So what it accepted between two refusals, divided by
the time, is its rate. Between them the calls leave at this rate: a little below it at first, and
after some hundred calls a little above it, to find out whether the quota has grown. If it has,
no refusal comes although more was taken than the old quota held, and the pace then grows fast.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

FIRST_REST_S: Final = 5.0  # of quota that a bucket is assumed to have held at the first refusal
FIRST_RATE: Final = 0.5  # calls per second; a guess too high costs few refusals, and only once
SLOWEST: Final = 1e-4  # units per second
RECOVERING_CALLS: Final = 20
STEADY_CALLS: Final = 160  # a probe meets a refusal; this keeps them below one in a hundred
STEADY_S: Final = 20.0
RECOVERING: Final = 0.97  # of the learned rate
PROBING: Final = 1.12
EXCESS_CALLS: Final = 3.0  # taken beyond the learned quota without a refusal: it has grown
GROWTH_A_CALL: Final = 0.04
GROWTH_A_SECOND: Final = 0.3
UNSURE_CALLS: Final = 4  # fewer do not measure a rate
SHARPEST_CUT: Final = 0.3
GUESSED_CUT: Final = 0.7
CAREFUL: Final = 0.9  # a bucket may have been full when the growth began


class Phase(Enum):
    """The relation of a learned pace to the rate that was measured last."""

    RECOVERING = "recovering"
    STEADY = "steady"
    PROBING = "probing"
    GROWING = "growing"


class LearnedPace:
    """The pace of one dimension of a quota, from its first refusal on.

    Args:
        now: the time of the first refusal.
        accepted: what the server had accepted before, and for how long.
        elapsed_s: since the first of these calls.
        mean_cost: of a call, in the units of the dimension.
    """

    def __init__(self, now: float, *, accepted: float, elapsed_s: float, mean_cost: float) -> None:
        self.rate = max(accepted / (elapsed_s + FIRST_REST_S), FIRST_RATE * mean_cost)
        self._mean = max(mean_cost, 1e-9)
        self._phase = Phase.GROWING  # the first rate is a guess
        self._burst = self._mean  # that the server is known to take at once
        self._level = 0.0  # that may leave now
        self._credit = 0.0  # of the level: refilled during a pause
        self._at = now
        self._grown_at = now
        self._cut_number = -1  # calls that left before the last cut teach nothing new
        self.is_measured = False  # false: the rate is a guess
        self._marked_at = self._growing_since = now
        self._accepted = self._accepted_before = self._surplus = 0.0
        self._num_accepted = 0
        self._was_idle = False
        self._mark(now)

    def __repr__(self) -> str:
        return f"<LearnedPace {self.rate:.4g}/s, {self._phase.value}, level {self._level:.3g}>"

    def begin_after(self, number: int) -> None:
        """Ignore the refusals of calls up to `number`, which left before the first cut."""
        self._cut_number = number

    @property
    def pace(self) -> float:
        """Units per second at which calls leave now."""
        if self._phase is Phase.RECOVERING:
            return self.rate * RECOVERING
        return self.rate * (PROBING if self._phase is Phase.PROBING else 1.0)

    def wait_s(self, now: float, cost: float) -> float:
        """Return the seconds until a call of this cost may leave; 0: now."""
        self._advance(now)
        missing = min(cost, self._cap()) - self._level
        return max(0.0, missing) / self.pace

    def spend(self, now: float, cost: float) -> None:
        """Take the cost of a call that leaves."""
        self._advance(now)
        self._level -= cost
        self._surplus -= cost
        self._mean += 0.05 * (cost - self._mean)

    def restore(self, now: float, cost: float) -> None:
        """Put the cost of a call back that the server has not counted."""
        self._advance(now)
        self._level = min(self._level + cost, self._cap())
        self._surplus += cost

    def accepted(self, now: float, cost: float) -> None:
        """Count a call that the server accepted."""
        self._advance(now)
        self._num_accepted += 1
        self._accepted += cost
        self._choose_phase(now)

    def refused(self, now: float, number: int, last_number: int) -> None:
        """Learn from a refusal of call `number`; `last_number` is the last one that left."""
        self._advance(now)
        if number <= self._cut_number:
            return  # it left before the last cut
        self._cut_number = last_number
        if self._credit > 0 and self._accepted < self._credit:
            self._burst = max(self._mean, self._accepted)  # the server holds less than assumed
        else:
            self.rate = max(SLOWEST, self._measured(now))
            self._burst = min(max(self._burst, self.rate), 60 * self.rate)
        self._phase, self._level = Phase.RECOVERING, 0.0
        self._mark(now)

    def resume(self, now: float) -> None:
        """Use what the server refilled during a pause, now that it accepts calls again."""
        self._advance(now)
        rest_s = now - self._marked_at
        refilled = min(self._burst, self.rate * rest_s)
        self._credit = self._level = max(0.0, refilled - self._accepted)
        # What did not fit the server's bucket was lost, and must not count as unused quota.
        self._marked_at = max(self._marked_at, now - refilled / self.rate)
        self._surplus = self._level

    # --- internals ---------------------------------------------------------------------------

    def _cap(self) -> float:
        return max(self._mean, self._burst, 0.25 * self.rate)

    def _mark(self, now: float) -> None:
        """Begin to measure: the server's bucket is empty now."""
        self._marked_at = now
        self._num_accepted = 0
        self._accepted = 0.0
        self._credit = 0.0
        self._growing_since = now
        self._accepted_before = 0.0
        self._surplus = 0.0  # what the server holds, if the learned rate is right
        self._was_idle = False

    def _advance(self, now: float) -> None:
        elapsed_s, self._at = max(0.0, now - self._at), max(now, self._at)
        self._level = min(self._cap(), self._level + self.pace * elapsed_s)
        most = max(self._cap(), 5 * self.rate)
        self._surplus = min(most, self._surplus + self.rate * elapsed_s)
        if self._surplus > self._credit + 5 * self._mean + 0.5 * self.rate:
            self._was_idle = True  # fewer calls came than the quota allows

    def _choose_phase(self, now: float) -> None:
        if self._phase is Phase.GROWING:
            self._grow(now)
        elif self._surplus < -(EXCESS_CALLS + 0.01 * self._num_accepted) * self._mean:
            self.rate = self.pace
            self._phase, self._grown_at = Phase.GROWING, now
            self._growing_since, self._accepted_before = now, self._accepted
        elif self._num_accepted >= STEADY_CALLS and now - self._marked_at >= STEADY_S:
            self._phase = Phase.PROBING
        elif self._num_accepted >= RECOVERING_CALLS:
            self._phase = Phase.STEADY
            if self._credit:
                self._burst *= 1.2  # the server held what was refilled during its pause
                self._credit = 0.0

    def _grow(self, now: float) -> None:
        if self._level > self._mean:
            return  # calls do not use what is allowed already
        fastest = GROWTH_A_SECOND * max(0.0, now - self._grown_at)
        self.rate *= 1 + min(GROWTH_A_CALL, fastest)
        self._grown_at = now
        self._surplus = 0.0

    def _measured(self, now: float) -> float:
        """Return the rate that the calls since the last refusal show."""
        elapsed_s = now - self._marked_at
        if self._num_accepted < UNSURE_CALLS or elapsed_s <= 0:
            return self.rate * GUESSED_CUT
        measured = self._accepted / elapsed_s
        self.is_measured = True
        if self._phase is Phase.GROWING and self._growing_since > self._marked_at:
            # The quota has grown since the last refusal: only what came after that shows its size.
            grown = self._accepted - self._accepted_before
            faster = grown / max(1e-9, now - self._growing_since)
            return max(measured, min(CAREFUL * faster, self.rate))
        if self._was_idle:
            return max(measured, 0.85 * self.rate)
        return max(measured, SHARPEST_CUT * self.rate)
