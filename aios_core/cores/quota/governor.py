"""Decide when a call may leave for an endpoint, so that its quota is used and not exceeded.

Pure: the caller passes the time. A call is reserved before it leaves (`reserve`), and ends in
`accepted` or `refused`, or is `withdrawn`; then `settle` and `end`.

What bounds the calls, in each dimension:
  - the limits of the configuration;
  - what the responses report, minus what has left since (`reported`);
  - without such headers: a slow start, and from the first refusal on a learned pace (`learned`).

After a refusal (429) nothing leaves until its pause has passed. Then one call goes first, the
canary. The others follow once the endpoint has accepted it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.costs import Cost
from aios_core.cores.quota.headers import Dimension, Reading
from aios_core.cores.quota.learned import UNSURE_CALLS, LearnedPace
from aios_core.cores.quota.reported import ReportedBucket

FIRST_PAUSE_S: Final = 1.0  # after a refusal that names no time; doubles while none is accepted
MAX_PAUSE_S: Final = 60.0
SHORTEST_PAUSE_S: Final = 0.05
FAST_ENOUGH: Final = 64  # calls that may be unanswered at the end of the slow start
UNANSWERED_S: Final = 5.0  # after this a call counts as accepted, since refusals come at once
EPSILON_S: Final = 1e-6


@dataclass(slots=True, eq=False)
class Lease:
    """The right of one call to leave, and what it takes from the quota."""

    number: int  # in the order in which calls left
    cost: Cost
    sent_at: float
    spent: dict[Dimension, float] = field(default_factory=dict)  # by all calls up to this one
    is_answered: bool = False  # accepted, refused, or withdrawn
    is_over: bool = False


class Governor:
    """The quota of one key, endpoint and model.

    Invariants (see `check`): `_open` holds exactly the leases that are not over; the unanswered
    ones of them are in `_unanswered`.
    """

    def __init__(self, options: QuotaOptions, *, now: float, starts_slowly: bool = True) -> None:
        self.options = options
        self._configured = options.buckets(now)
        self.reported: dict[Dimension, ReportedBucket] = {}
        self.learned: dict[Dimension, LearnedPace] = {}
        self._window = 1 if starts_slowly and not options.requests_per_minute else FAST_ENOUGH
        self._open: set[Lease] = set()
        self._unanswered: dict[int, Lease] = {}
        self._next_number = 0
        self._paused_until = now
        self._num_refused = 0  # in a row
        self._awaits_canary = False
        self._canary: Lease | None = None
        self._began_at: float | None = None  # when the first call left
        self._accepted: dict[Dimension, float] = dict.fromkeys(Dimension, 0.0)
        self._num_accepted = 0
        self._fastest_s = float("inf")  # from sending to the first bytes of a response

    def __repr__(self) -> str:
        return (
            f"<Governor: {len(self._open)} open, {self._num_refused} refused in a row, "
            f"reported {self.reported}, learned {self.learned}>"
        )

    def tighten(self, options: QuotaOptions, now: float) -> None:
        """Take the limits of a further core into account: the smallest count."""
        self.options = self.options.tightened(options)
        self._configured = self.options.buckets(now)

    # --- before a call ------------------------------------------------------------------------

    def pause_left_s(self, now: float) -> float:
        """Return the rest of the pause that the endpoint asked for."""
        return round(max(0.0, self._paused_until - now), 9)

    def wait_s(self, now: float, cost: Cost) -> float:
        """Return the seconds until a call of this cost may leave; 0: now.

        It is a lower bound: what other calls do in the meantime may change it.
        """
        waits = [
            self.pause_left_s(now),
            self._wait_for_answers_s(now),
            *(one.wait_s(now, cost[dim]) for dim, one in self._configured.items()),
            *(one.wait_s(now, cost[dim]) for dim, one in self.reported.items()),
            *(one.wait_s(now, cost[dim]) for dim, one in self.learned.items()),
        ]
        longest = max(waits)
        return longest if longest > EPSILON_S else 0.0

    def reserve(self, now: float, cost: Cost) -> Lease:
        """Take the cost of a call that leaves now."""
        lease = Lease(self._next_number, cost, now)
        self._next_number += 1
        for dim, configured in self._configured.items():
            configured.spend(now, cost[dim])
        for dim, reported in self.reported.items():
            lease.spent[dim] = reported.spend(cost[dim])
        for dim, learned in self.learned.items():
            learned.spend(now, cost[dim])
        self._open.add(lease)
        self._unanswered[lease.number] = lease
        if self._awaits_canary and self._canary is None:
            self._canary = lease
        if self._began_at is None:
            self._began_at = now
        return lease

    # --- the endpoint's answers ---------------------------------------------------------------

    def accepted(self, lease: Lease, now: float, readings: Iterable[Reading] = ()) -> None:
        """Record that the endpoint serves a call, and what it reports about the quota."""
        if lease.is_answered:
            return
        self._answer(lease)
        self._fastest_s = min(self._fastest_s, max(0.0, now - lease.sent_at))
        self._num_accepted += 1
        for dim, amount in lease.cost.items():
            self._accepted[dim] += amount
        for dim, learned in self.learned.items():
            learned.accepted(now, lease.cost[dim])
        self._read(lease, readings)
        self._window = FAST_ENOUGH if self.reported else min(self._window + 1, FAST_ENOUGH)
        if not self._awaits_canary or lease is self._canary:
            self._resume(now)

    def refused(
        self,
        lease: Lease,
        now: float,
        *,
        pause_s: float | None = None,
        readings: Iterable[Reading] = (),
        dimension: Dimension = Dimension.REQUESTS,
    ) -> float:
        """Record a refusal for the rate (429), and pause. Returns the pause in seconds.

        `pause_s` is what the endpoint asks for; None: nothing. `dimension` is the one that
        it names as exceeded.
        """
        was_accepted = lease.is_answered
        self._answer(lease)
        self._fastest_s = min(self._fastest_s, max(0.0, now - lease.sent_at))
        readings = tuple(readings)
        is_explained = not was_accepted and self._explains(lease, readings)
        self._read(lease, readings)
        if not was_accepted:
            self._take_back(lease, now)
        if not is_explained:
            self._learn_refusal(lease, now, dimension)
        self._pause(lease, now, pause_s)
        return self.pause_left_s(now)

    def paused(self, lease: Lease, now: float, pause_s: float | None) -> None:
        """Record that the endpoint asks for a pause for another reason than the quota."""
        self._answer(lease)
        self._pause(lease, now, pause_s)

    def withdrawn(self, lease: Lease) -> None:
        """Record that a call ended without a sign whether it was counted."""
        if lease.is_answered:
            return
        self._answer(lease)
        if lease is self._canary:
            self._canary = None  # the next call takes its part

    def settle(self, lease: Lease, now: float, used: Cost) -> None:
        """Replace the estimated tokens of a call by those that it used."""
        for dim, bucket in self._configured.items():
            if dim is not Dimension.REQUESTS:
                bucket.spend(now, used[dim] - lease.cost[dim])

    def end(self, lease: Lease) -> None:
        """End a call: it no longer counts as one in flight. Idempotent."""
        if lease.is_over:
            return
        self.withdrawn(lease)
        lease.is_over = True
        self._open.discard(lease)

    # --- for people ---------------------------------------------------------------------------

    def rates_per_minute(self) -> dict[str, float]:
        """Return what is known of the quota, by dimension, the configured limits first."""
        rates: dict[str, float] = {}
        for buckets in (self.reported, self.learned, self._configured):
            for dim, bucket in buckets.items():
                rates[dim.value] = min(rates.get(dim.value, float("inf")), bucket.rate * 60.0)
        return rates

    def check(self) -> None:
        """Raise `AssertionError` unless every invariant holds. For tests and debugging."""
        assert all(not lease.is_over for lease in self._open)  # noqa: S101
        unanswered = {lease for lease in self._open if not lease.is_answered}
        assert unanswered == set(self._unanswered.values())  # noqa: S101

    # --- internals ----------------------------------------------------------------------------

    def _wait_for_answers_s(self, now: float) -> float:
        """Return how long to wait for the answers of calls that have left.

        The gate asks again when an answer comes; the time is only a bound.
        """
        limit = self.options.max_concurrent
        if limit is not None and len(self._open) >= limit:
            return UNANSWERED_S
        if self._awaits_canary:
            if self._canary is None:
                return 0.0
            left_s = self._canary.sent_at + UNANSWERED_S - now
            if left_s > 0:
                return left_s
        if self._window >= FAST_ENOUGH:
            return 0.0
        leave = [one.sent_at + UNANSWERED_S for one in self._unanswered.values()]
        still = sorted(at for at in leave if at > now)
        return 0.0 if len(still) < self._window else still[len(still) - self._window] - now

    def _pause(self, lease: Lease, now: float, pause_s: float | None) -> None:
        if self.pause_left_s(now) <= 0 or lease is self._canary:
            self._num_refused += 1
        if lease is self._canary or not self._awaits_canary:
            self._awaits_canary, self._canary = True, None
        wanted = self._own_pause_s(lease.cost) if pause_s is None else pause_s
        self._paused_until = max(self._paused_until, now + max(wanted, SHORTEST_PAUSE_S))

    def _answer(self, lease: Lease) -> None:
        lease.is_answered = True
        self._unanswered.pop(lease.number, None)

    def _resume(self, now: float) -> None:
        """Let the other calls follow, since one was accepted after the refusal."""
        self._num_refused = 0
        if self._awaits_canary:
            self._awaits_canary, self._canary = False, None
            for learned in self.learned.values():
                learned.resume(now)

    def _read(self, lease: Lease, readings: Iterable[Reading]) -> None:
        for reading in readings:
            dim = reading.dimension
            bucket = self.reported.get(dim)
            if bucket is None:
                bucket = self.reported[dim] = ReportedBucket()
                self._count_earlier(dim, bucket)
            spent = lease.spent.get(dim, bucket.spent)
            bucket.read(reading, number=lease.number, spent=spent, at=self._counted_at(lease))

    def _count_earlier(self, dim: Dimension, bucket: ReportedBucket) -> None:
        """Charge the calls that left before the first reading of a dimension."""
        for lease in sorted(self._open, key=lambda one: one.number):
            lease.spent[dim] = bucket.spend(lease.cost[dim])

    def _counted_at(self, lease: Lease) -> float:
        """Return when the server counted a call: about half of the fastest round trip later."""
        return lease.sent_at + self._fastest_s / 2

    def _explains(self, lease: Lease, readings: Iterable[Reading]) -> bool:
        """Return whether the headers account for a refusal; else they miss another limit."""
        for reading in readings:
            bucket = self.reported.get(reading.dimension)
            if reading.remaining < lease.cost[reading.dimension] + 1.0:
                if bucket is not None:
                    bucket.widen_margin()
                return True
        return False

    def _take_back(self, lease: Lease, now: float) -> None:
        """Put the cost of a refused call back, since it was not counted."""
        for dim, configured in self._configured.items():
            if dim is not Dimension.REQUESTS:  # some servers count refused requests
                configured.spend(now, -lease.cost[dim])
        for dim, learned in self.learned.items():
            learned.restore(now, lease.cost[dim])

    def _learn_refusal(self, lease: Lease, now: float, dim: Dimension) -> None:
        pace = self.learned.get(dim)
        if pace is not None:
            pace.refused(now, lease.number, self._next_number - 1)
            return
        if self._num_accepted < UNSURE_CALLS or self._began_at is None:
            self._window = 1  # nothing to learn from yet: start slowly again
            return
        began_at, mean = self._began_at, self._accepted[dim] / self._num_accepted
        pace = LearnedPace(
            now, accepted=self._accepted[dim], elapsed_s=now - began_at, mean_cost=mean
        )
        pace.begin_after(self._next_number - 1)
        self.learned[dim] = pace

    def _own_pause_s(self, cost: Cost) -> float:
        """Return the pause after a refusal that names none: it doubles with each in a row."""
        first = FIRST_PAUSE_S
        for dim, pace in self.learned.items():
            if pace.is_measured:
                first = min(first, 1.5 * cost[dim] / pace.rate)
        return min(
            max(SHORTEST_PAUSE_S, first) * 2.0 ** min(self._num_refused - 1, 16), MAX_PAUSE_S
        )
