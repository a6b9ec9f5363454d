"""Answer calls, and free what they hold: once each, whatever goes wrong on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVarTuple

from aios_core.budget import NOTHING
from aios_core.clock import Clock
from aios_core.errors import KernelBug, KernelError
from aios_core.messages import Completion, Usage
from aios_core.messages.completion import NO_USAGE
from aios_core.queueing.shares import service_of
from aios_core.scheduler.call import Call, cancel, deliver
from aios_core.scheduler.call_events import CallEvents
from aios_core.scheduler.holds import FreezeWaiters
from aios_core.scheduler.overload import OverloadGuard
from aios_core.scheduler.protocols import Contexts
from aios_core.scheduler.scheduler import Scheduler
from aios_core.scheduler.spending import Spending
from aios_core.syscalls import SyscallState
from aios_core.untrusted.third_party import RAISED, describe, detach, log_raised, pass_on

log = logging.getLogger(__name__)
Args = TypeVarTuple("Args")


class Endings:
    """Ends calls. A call is answered first; what a core still works on is freed by `let_go`.

    Args:
        calls, running: the dispatcher's; a call leaves them here.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        contexts: Contexts,
        spending: Spending,
        *,
        overload: OverloadGuard,
        waiters: FreezeWaiters,
        tell: CallEvents,
        clock: Clock,
        calls: dict[int, Call],
        running: dict[int, Call],
    ) -> None:
        self._scheduler = scheduler
        self._contexts = contexts
        self._spending = spending
        self._overload = overload
        self._waiters = waiters
        self._tell = tell
        self._observers = tell.observers
        self._clock = clock
        self._calls = calls
        self._running = running

    def attempt(self, call: Call, step: Callable[[Call, *Args], object], *args: *Args) -> None:
        """Run a step for a call. An exception fails this call only."""
        try:
            step(call, *args)
        except RAISED as exc:  # a policy, a core or a caller may raise anything
            pass_on(exc)
            log_raised(log, exc, "%r could not be handled", call.syscall)
            if not call.is_answered:
                self.fail(call, _as_bug(exc, call))

    def conclude(
        self,
        call: Call,
        outcome: SyscallState,
        *,
        completion: Completion | None = None,
        error: KernelError | None = None,
    ) -> None:
        """Answer a call, and free all that it holds, but for the slot of a core still at work."""
        call.is_answered = True
        try:
            self._close_books(call, outcome, completion)
            if self._observers:
                self._tell.ended(call, outcome, completion, error)
        finally:
            if completion is not None:
                deliver(call.answer.resolve, completion)
            else:
                reason = error or KernelBug(f"{call.syscall!r} ended without a reason")
                deliver(call.answer.reject, reason)

    def fail(
        self, call: Call, error: KernelError, outcome: SyscallState = SyscallState.FAILED
    ) -> None:
        """Answer a call with an error, one of several: what goes wrong concerns no other."""
        try:
            self.conclude(call, outcome, error=error)
        except RAISED as exc:  # the answer is given, whatever comes after it
            pass_on(exc)
            log_raised(
                log,
                exc,
                "%r was answered, but not everything that it held could be freed",
                call.syscall,
            )

    def cut(self, call: Call) -> None:
        """Answer a call with the part within its limits, and stop a core that works on it."""
        call.answered_with = completion = self._spending.verdicts.cut(call)
        self._tell.cut(call, completion)
        call.record_usage(completion.usage)
        self._tell.unpaid(call, self._spending.settle(call))  # whoever has the answer sees its cost
        self.conclude(call, SyscallState.DONE, completion=completion)

    def let_go(self, call: Call, usage: Usage) -> None:
        """Record that a core has stopped working on a call, with its usage."""
        core, call.core = call.core, None
        self._running.pop(call.syscall.id, None)
        if call.answered_with is not None and not call.is_answered:
            call.record_usage(call.answered_with.usage)
        elif call.answered_with is None:
            believed, fault = self._spending.verdicts.usage(call, core or call.route[0], usage)
            self._tell.fault(call, core, fault)
            call.record_usage(believed)
        if self._waiters.waiters:
            self._waiters.notify(self._running.values())
        if call.is_answered:
            self._forget(call)

    def _close_books(
        self, call: Call, outcome: SyscallState, completion: Completion | None
    ) -> None:
        """Free all that an answered call holds, but for the slot of a core still at work."""
        syscall, now = call.syscall, self._clock.now()
        syscall.finished_at = now
        call.release()
        if call.ticket is None:
            syscall.move_to(outcome, now)
        else:
            cost = service_of(completion.usage) if completion else None
            self._scheduler.finish(call.ticket, outcome, now, cost=cost)
        call.book(outcome)
        if outcome is not SyscallState.CANCELLED:
            self._overload.record_answer(call)
        if call.core is not None:
            cancel(call.core, syscall.id)  # settled when the core has let go
        else:
            if syscall.usage is NO_USAGE or syscall.usage == NO_USAGE:
                call.record_usage(self._spending.verdicts.usage(call, call.route[0], NO_USAGE)[0])
            self._forget(call)

    def _forget(self, call: Call) -> None:
        """Free what an answered call still holds, now that no core works on it."""
        self._calls.pop(call.syscall.id, None)
        try:
            if call.syscall.num_preemptions:
                self._contexts.discard(call.syscall.id)
        finally:
            unpaid = self._spending.settle(call)
            if unpaid is not NOTHING:
                self._tell.unpaid(call, unpaid)


def _as_bug(exc: BaseException, call: Call) -> KernelError:
    if isinstance(exc, KernelError):
        return exc
    bug = KernelBug(f"{call.syscall!r} could not be handled: {describe(exc)}")
    bug.__cause__ = detach(exc)
    return bug
