"""Restart cores that are down, and decide which failed calls are retried, and when.

A core that is down is started again at growing intervals until it serves. Calls that only
this core can serve wait for it for `core_wait_s`. From where a failed call is retried, and
whether it may be, follows from what its caller has received (`continuation`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from aios_core.clock import Clock
from aios_core.core import Core, Failed, ReportSink, load_of
from aios_core.errors import (
    CoreError,
    CoreUnavailable,
    KernelError,
    RateLimited,
    SnapshotError,
)
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.scheduler.call import Call
from aios_core.scheduler.continuation import Start, cores_to_continue, possible_starts
from aios_core.scheduler.protocols import Cores, Outage
from aios_core.scheduler.waiting_calls import Route
from aios_core.shielding import finish_shielded
from aios_core.untrusted.third_party import (
    OF_THE_LOOP,
    RAISED,
    describe,
    detach,
    is_kernel_error,
    pass_on,
)

log = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 0.25  # doubles with every further run


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rule that decides whether and when a failed call is retried. Pure.

    Args:
        max_attempts: runs of one call that fail in a row, without a token between them that is
            kept. A run that met a rate limit while the core served other calls does not count:
            the core works, and other calls were faster.
        max_retry_s: seconds from the first failure to the start of the next run.
    """

    max_attempts: int
    max_retry_s: float = 120.0

    def allows(
        self, call: Call, start: Start, *, now: float, pause_s: float, is_contended: bool
    ) -> bool:
        """Return whether the call may start from there after a pause."""
        num_failed, since = call.num_runs_failed, call.first_failed_at
        if start.has_advanced or since is None:
            num_failed, since = 0, now
        num_failed += not is_contended
        return num_failed < self.max_attempts and now + pause_s - since <= self.max_retry_s

    def delay_s(self, num_failed: int, core: Core, error: KernelError, *, has_other: bool) -> float:
        """Return the back-off of a call in seconds, after that many failed runs before this one.

        It is 0 if the core itself pauses for all calls, or if another core can serve the call.
        """
        own_s = FIRST_RETRY_S * 2.0**num_failed
        if isinstance(error, RateLimited):  # most cores pause themselves, for all calls
            return 0.0 if load_of(core).available_in_s > 0 else max(error.retry_after_s, own_s)
        return 0.0 if has_other else own_s


def is_passing(error: KernelError) -> bool:
    """Return whether a call may succeed later or on another core, without doing work twice."""
    return isinstance(error, CoreUnavailable | RateLimited) or (
        isinstance(error, CoreError) and error.is_retryable
    )


def asked_pause_s(core: Core, error: KernelError) -> float:
    """Return the pause that a provider asks for after an error, in seconds."""
    if not isinstance(error, RateLimited):
        return 0.0
    return max(error.retry_after_s, load_of(core).available_in_s)


class CoreSupervisor:
    """Marks cores as down, and starts them again."""

    def __init__(
        self,
        cores: Cores,
        clock: Clock,
        events: EventStream,
        *,
        sink: Callable[[Core], ReportSink],
        on_up: Callable[[], None],
    ) -> None:
        self._cores = cores
        self._clock = clock
        self._events = events
        self._sink = sink
        self._on_up = on_up
        self.is_closing = False

    def is_up(self, core: Core) -> bool:
        """Return whether a core serves at present."""
        return self._cores.is_up(core.name)

    def first_up(self, route: Route) -> Core:
        """Return the first core of a route that is up; the first of all if none is."""
        for core in route:
            if self._cores.is_up(core.name):
                return core
        return route[0]

    def has_core(self, call: Call) -> bool:
        """Return whether any core that may serve the call is up."""
        return any(map(self.is_up, call.route))

    def mark_down(self, core: Core, error: KernelError) -> bool:
        """Mark a core as down. False if it was already; a restart is in progress then."""
        if not self.is_up(core):
            return False
        log.error("core %r is down: %s", core.name, error)
        self._cores.mark_down(core.name, error, self._clock.now())
        self.emit(EventKind.CORE_DOWN, core, reason=str(error))
        return True

    async def restart(self, core: Core) -> None:
        """Start a core again, at growing intervals, until it serves."""
        while outage := self._outage_to_end(core):
            await asyncio.sleep(max(0.0, outage.probe_at - self._clock.now()))
            try:
                await core.start(self._sink(core))
            except OF_THE_LOOP:
                raise
            except RAISED as exc:  # any failure leads to the next attempt
                pass_on(exc)
                error = as_kernel_error(exc, core, "start")
                self._cores.mark_down(core.name, error, self._clock.now())
            else:
                if self.is_closing:  # all cores were closed meanwhile, this one too early
                    await finish_shielded(core.close())
                    return
                self._cores.mark_up(core.name)
                self.emit(EventKind.CORE_UP, core)
                self._on_up()

    def _outage_to_end(self, core: Core) -> Outage | None:
        return None if self.is_closing else self._cores.outage(core.name)

    def emit(self, kind: EventKind, core: Core, **facts: str) -> None:
        """Emit an event about a core."""
        if self._events:
            about = {"core": core.name, **facts}
            self._events.emit(KernelEvent(self._clock.now(), kind, facts=about))


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision to retry a failed call."""

    delay_s: float
    counts: bool  # whether the failed run counts against `max_attempts`
    route: Route
    start: Start


class Retries:
    """Decides about failed calls, by a rule and by the state of the cores."""

    def __init__(self, rule: RetryPolicy, supervisor: CoreSupervisor, clock: Clock) -> None:
        self._rule = rule
        self._supervisor = supervisor
        self._clock = clock
        self.served_at: dict[Core, float] = {}  # when each core last answered a call

    def plan(self, call: Call, core: Core, report: Failed) -> Retry | None:
        """Decide whether, how and from where a call is retried; None: it fails."""
        if not (is_passing(report.error) or isinstance(report.error, SnapshotError)):
            return None
        for start in possible_starts(call, report):
            route = cores_to_continue(call.route, start.snapshot)
            if not route and self._supervisor.is_up(core):  # it is draining
                route = cores_to_continue((core,), start.snapshot)
            if route:
                return self._plan_from(start, route, call, core, report.error)
        return None

    def _plan_from(
        self, start: Start, route: Route, call: Call, core: Core, error: KernelError
    ) -> Retry | None:
        served_at = self.served_at.get(core, float("-inf"))
        is_contended = isinstance(error, RateLimited) and served_at > call.syscall.state_since
        others = tuple(c for c in route if c is not core and self._supervisor.is_up(c))
        num_failed = 0 if start.has_advanced else call.num_runs_failed
        delay_s = self._rule.delay_s(num_failed, core, error, has_other=bool(others))
        allows = partial(
            self._rule.allows, call, start, now=self._clock.now(), is_contended=is_contended
        )
        if allows(pause_s=max(delay_s, asked_pause_s(core, error))):
            free = tuple(c for c in others if load_of(c).has_slot)
            if isinstance(error, RateLimited):
                free = ()  # the core that failed pauses itself
            return Retry(delay_s, not is_contended, free or route, start)
        # The pause of a rate limited core does not bind the other cores of the route.
        if isinstance(error, RateLimited):
            soon = tuple(c for c in others if allows(pause_s=load_of(c).available_in_s))
            if soon:
                return Retry(0.0, not is_contended, soon, start)
        self._warn(call, core, error)
        return None

    def _warn(self, call: Call, core: Core, error: KernelError) -> None:
        log.warning(
            "%r on core %r is not retried (%d runs, max_attempts %d): %s",
            call.syscall,
            core.name,
            call.num_runs_failed + 1,
            self._rule.max_attempts,
            error,
        )


def as_kernel_error(exc: BaseException, core: Core, doing: str = "prepare the call") -> KernelError:
    """Convert any exception of a core to a `KernelError`."""
    if is_kernel_error(exc):
        return cast(KernelError, exc)
    error = CoreError(core.name, f"could not {doing}: {describe(exc)}")
    error.__cause__ = detach(exc)
    return error
