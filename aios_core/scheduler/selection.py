"""Choose which waiting call of a route goes to which of its cores. Changes nothing.

Calls of active agents (`returning`) wait for a slot only, calls of other agents (`arriving`) also
for memory. While memory is short, active agents go first, then the agent that the policy admits
first; otherwise the policy's order of calls decides between both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aios_core.core import Core, load_of
from aios_core.scheduler.admission import FITS, AdmissionPlan
from aios_core.scheduler.admission_waits import Urgency
from aios_core.scheduler.context_books import ContextBooks
from aios_core.scheduler.waiting_calls import Route, RouteQueue, Ticket, WaitingCalls


@dataclass(frozen=True, slots=True)
class Eviction:
    """A plan by which an agent is no longer active on a core, so that its call waits as new."""

    ticket: Ticket
    core: Core | None = None  # None: it is not active already
    plan: AdmissionPlan = FITS


@dataclass(slots=True)
class Choice:
    """The result of looking for the next call of a route."""

    ticket: Ticket | None = None
    core: Core | None = None
    plan: AdmissionPlan = FITS
    evictions: list[Eviction] = field(default_factory=list)
    blocked: Ticket | None = None  # a new agent's call that does not fit any of the cores


class CallSelector:
    """Chooses calls by rank, age and memory."""

    def __init__(self, waiting: WaitingCalls, books: ContextBooks) -> None:
        self._waiting = waiting
        self._books = books

    def choose(self, queue: RouteQueue, cores: Route, now: float) -> Choice:
        """Choose the first call in order that may start on one of the cores."""
        choice = Choice()
        for ticket, urgency in self._in_order(queue, now):
            if self._place(choice, ticket, cores, now, is_overdue=urgency > Urgency.USUAL):
                break
            if ticket in queue.arriving:
                choice.blocked = ticket
            elif not self._books.is_active(ticket):  # it left for a call of another agent
                choice.evictions.append(Eviction(ticket))
        return choice

    def fits(self, ticket: Ticket, core: Core, now: float) -> bool:
        """Return whether a call may start on a core."""
        return self._books.plan(ticket, core, now).fits

    def reconsider_at(self, queue: RouteQueue, now: float) -> float | None:
        """Return when time alone may let a call of a route start; None: never."""
        if not queue.is_short or (oldest := queue.arriving.oldest()) is None:
            return None
        cores = oldest.route
        departures = (self._books.admission.next_departure(core, now) for core in cores)
        times = [at for at in departures if at is not None]
        ttl_s = self._ttl_s(cores)
        times.append(oldest.queued_at + queue.waits.bound_s(ttl_s))
        times.append(oldest.queued_at + queue.waits.drains_after_s(ttl_s))
        return min((at for at in times if at > now), default=None)

    # --- the order ----------------------------------------------------------------------------

    def _in_order(self, queue: RouteQueue, now: float) -> Iterator[tuple[Ticket, Urgency]]:
        """Yield the calls that may start next: of active agents all, of others the first."""
        overdue = Urgency.USUAL
        if queue.is_short and (oldest := queue.arriving.oldest()) is not None:
            overdue = queue.waits.urgency(now - oldest.queued_at, self._ttl_s(oldest.route))
            if overdue > Urgency.USUAL:
                yield oldest, overdue
            if overdue is Urgency.DRAINS:
                return
        new = None if overdue > Urgency.USUAL else self._first_new(queue, now)
        warm = self._warm(queue, now)
        if new is not None and not self._warm_first(queue, new, now):
            yield new, overdue
            new = None
        for ticket in warm:
            yield ticket, Urgency.USUAL
        if new is not None:
            yield new, overdue

    def _first_new(self, queue: RouteQueue, now: float) -> Ticket | None:
        return queue.arriving.best() if queue.is_short else self._waiting.first(queue.arriving, now)

    def _warm_first(self, queue: RouteQueue, new: Ticket, now: float) -> bool:
        if queue.is_short or (warm := self._waiting.first(queue.returning, now)) is None:
            return True
        return self._waiting.urgency(warm, now) < self._waiting.urgency(new, now)

    def _warm(self, queue: RouteQueue, now: float) -> Iterator[Ticket]:
        first = self._waiting.first(queue.returning, now)
        if first is None:
            return
        yield first
        if len(queue.returning) > 1:
            rest = (ticket for ticket in queue.returning if ticket is not first)
            yield from sorted(rest, key=lambda ticket: self._waiting.urgency(ticket, now))

    # --- the place ----------------------------------------------------------------------------

    def _place(
        self, choice: Choice, ticket: Ticket, cores: Route, now: float, *, is_overdue: bool
    ) -> bool:
        """Find a core that a call may start on; note evictions. Returns whether there is one."""
        for core in self._nearest_first(ticket, cores):
            plan = self._books.plan(ticket, core, now, is_overdue=is_overdue)
            if plan.fits:
                choice.ticket, choice.core, choice.plan = ticket, core, plan
                return True
            if plan.evicted:
                choice.evictions.append(Eviction(ticket, core, plan))
        return False

    def _nearest_first(self, ticket: Ticket, cores: Route) -> Route:
        """Return the cores, those with the agent's context first."""
        if len(cores) == 1:
            return cores
        pid, is_active = ticket.syscall.pid, self._books.admission.is_active
        return tuple(sorted(cores, key=lambda core: not is_active(core, pid)))

    def _ttl_s(self, cores: Route) -> float:
        """Return the longest time to live on the cores that report their memory."""
        loads = ((core, load_of(core)) for core in cores)
        known = ((core, load) for core, load in loads if load.kv_capacity is not None)
        return max((self._books.admission.time_to_live(*each) for each in known), default=0.0)
