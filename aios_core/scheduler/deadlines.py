"""Timers of calls: deadlines, wall time, pauses. They are cancelled when their call ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from aios_core.clock import Clock, Timer
from aios_core.errors import BudgetExceeded, DeadlineExceeded, KernelError
from aios_core.scheduler.call import Call
from aios_core.scheduler.recovery import CoreSupervisor

_ROUNDING_S: Final = 1e-9  # a timer may fire that much early


class Deadlines:
    """Ends calls that take too long.

    Args:
        cancel: cancels the call of an id with an error.
    """

    def __init__(
        self,
        clock: Clock,
        supervisor: CoreSupervisor,
        cancel: Callable[[int, KernelError], object],
    ) -> None:
        self._clock = clock
        self._supervisor = supervisor
        self._cancel = cancel

    def set(self, call: Call, timeout_s: float | None, now: float) -> None:
        """Start the timers that end a call: its timeout, and its agent's wall time."""
        if timeout_s is not None:
            call.syscall.deadline_at = now + timeout_s
            self.later(call, timeout_s, partial(self._expire, call, timeout_s))
        if call.process.ends_at is not None:
            self.later(call, call.process.ends_at - now, partial(self.check_wall, call))

    def check_wall(self, call: Call) -> None:
        """End a call if its agent has no wall time left."""
        wall, now = call.process.wall, self._clock.now()
        if wall is not None and now >= wall.at - _ROUNDING_S:
            used = now - (wall.at - wall.limit_s)
            error = BudgetExceeded(wall.owner, "seconds of wall time", wall.limit_s, used, 0)
            self._cancel(call.syscall.id, error)

    def later(self, call: Call, delay_s: float, callback: Callable[[], object]) -> None:
        """Run a function after some seconds, unless the call has ended by then."""
        when = self._clock.now() + max(0.0, delay_s)
        call.timers.append(self._clock.call_at(when, callback))

    def _expire(self, call: Call, timeout_s: float) -> None:
        doing = call.status
        if call.ticket is not None and not self._supervisor.has_core(call):
            doing += f", waiting for core {call.route[0].name!r}, which is down"
        self._cancel(call.syscall.id, DeadlineExceeded(timeout_s, doing))


class WakeTimer:
    """A single timer, set to the earliest of several times."""

    def __init__(self, clock: Clock, wake: Callable[[], object]) -> None:
        self._clock = clock
        self._wake = wake
        self._timer: Timer | None = None

    def set(self, *times: float | None) -> None:
        """Wake at the earliest of these times; never, if there is none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        known = [at for at in times if at is not None]
        if known:
            self._timer = self._clock.call_at(min(known), self._wake)
