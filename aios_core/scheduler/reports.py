"""From the reports of cores to the answers of calls.

    a core, on any thread ──> ReportInbox ──> RunReports ──> Endings ──> the caller
                                                  └──> back into the queue (preempted, retried)

Promises: a report is handled on the kernel's loop, after every report that was handed in before
it, and never inside the call that handed it in: a core may report from within `run`. A report that
cannot be handled takes no other with it. Each call is answered once, and all that it holds is
freed, whatever goes wrong on the way.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVarTuple

from aios_core.budget import NOTHING
from aios_core.core import Core, Failed, Finished, Preempted, Progress, Report, ReportSink, Stopped
from aios_core.errors import CoreError, KernelBug, KernelClosed, KernelError
from aios_core.events import EventKind
from aios_core.messages import Completion, Usage
from aios_core.messages.conversation import NO_USAGE
from aios_core.process import ProcessState
from aios_core.queueing.policy import service_of
from aios_core.scheduler.call import Call, cancel, deliver, preempt, release
from aios_core.scheduler.deadlines import Deadlines
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.recovery import Retries, Retry
from aios_core.scheduler.waiting_calls import Hold, Ticket
from aios_core.snapshot import Snapshot
from aios_core.syscalls import SyscallState
from aios_core.untrusted.third_party import RAISED, describe, detach, log_raised, pass_on, type_name

log = logging.getLogger(__name__)


class ReportInbox:
    """The reports that wait to be handled.

    Thread-safe without a lock: the queue's ends are atomic, and the wake flag is cleared before the
    queue is read, so a late report wakes again.

    Args:
        loop: where they are handled.
        handle: called for each report.
        handled: called once after each batch.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handle: Callable[[Core, Report], None],
        handled: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._handle = handle
        self._handled = handled
        self._reports: deque[tuple[Core, Report]] = deque()
        self._is_woken = False
        self._loop_thread = threading.get_ident()

    def sink(self, core: Core) -> ReportSink:
        """The function by which a core reports."""
        return partial(self._receive, core)

    def drain(self) -> None:
        """Handle everything that is here. On the loop's thread."""
        self._is_woken = False
        try:
            while self._reports:
                self._handle_one(*self._reports.popleft())
        finally:
            if self._reports:  # something ends the program; what is left is handled all the same
                self._wake()
            self._handled()

    def _handle_one(self, core: Core, report: Report) -> None:
        try:
            self._handle(core, report)
        except RAISED as exc:  # none may keep others of its batch from being handled
            pass_on(exc)
            told = type_name(report)  # it may be of a class of the core's own
            log_raised(log, exc, "a report of core %r could not be handled: %s", core.name, told)

    def _receive(self, core: Core, reports: Sequence[Report]) -> None:
        self._reports.extend([(core, report) for report in reports])
        if not self._is_woken:
            self._wake()

    def _wake(self) -> None:
        self._is_woken = True
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self.drain)
            return
        try:
            self._loop.call_soon_threadsafe(self.drain)
        except RuntimeError:  # the loop is closed, and with it everybody who could listen
            self._reports.clear()


Args = TypeVarTuple("Args")


class Endings:
    """Ends calls. A call is answered first; what a core still works on is freed by `let_go`."""

    def __init__(self, state: DispatchState) -> None:
        self._scheduler = state.scheduler
        self._contexts = state.contexts
        self._spending = state.spending
        self._estimates = state.spending.estimates
        self._waiters = state.waiters
        self._tell = state.tell
        self._observers = state.tell.observers
        self._clock = state.clock
        self._calls = state.calls
        self._running = state.running

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
            self._estimates.learn_run(syscall.running_s)
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


RunReport = Progress | Finished | Preempted | Failed | Stopped


class RunReports:
    """Moves a running call on: to its caller, back into the queue, or to its end."""

    def __init__(
        self, state: DispatchState, ends: Endings, *, retries: Retries, deadlines: Deadlines
    ) -> None:
        self._scheduler = state.scheduler
        self._contexts = state.contexts
        self._spending = state.spending
        self._ends = ends
        self._keeper = state.keeper
        self._retries = retries
        self._deadlines = deadlines
        self._waiters = state.waiters
        self._tell = state.tell
        self._clock = state.clock
        self._running = state.running
        self._dispatch = state.dispatch

    def take(self, call: Call, core: Core, report: RunReport) -> None:
        """Take a report about a call that the core works on."""
        match report:
            case Progress():
                self._progressed(call, core, report)
            case Finished():
                self._finished(call, core, report)
            case Preempted():
                self._preempted(call, core, report.snapshot)
            case Failed():
                self.failed(call, core, report)
            case Stopped():
                self._stopped(call, core, report)

    def _progressed(self, call: Call, core: Core, report: Progress) -> None:
        if call.is_answered or call.ticket is None:
            return
        call.syscall.num_tokens += report.num_tokens
        step = self._spending.reservations.progressed(call, core, report)
        if call.answer.wants_deltas and step.delta:
            call.has_streamed_in_run = True
            deliver(call.answer.delta, step.delta)
        if step.is_over:
            self._ends.cut(call)
            return
        is_outranked = self._scheduler.progressed(call.ticket, report.num_tokens, self._clock.now())
        if is_outranked or step.gives_way:
            preempt(core, call.syscall.id)

    def _finished(self, call: Call, core: Core, report: Finished) -> None:
        self._retries.served_at[core] = self._clock.now()
        said = report.completion
        if not call.is_answered:
            verdict = self._spending.verdicts.finished(call, core, said)
            call.answered_with = verdict.completion
            if verdict.fault:
                self._tell.fault(call, core, verdict.fault)
            if verdict.was_cut:
                self._tell.cut(call, verdict.completion)
        self._ends.let_go(call, said.usage)
        if not call.is_answered:
            self._ends.conclude(call, SyscallState.DONE, completion=call.answered_with)
        if report.context is None:
            return
        if call.process.state is ProcessState.EXITED or self._keeper.is_closing:
            release(report.context)
        else:
            self._contexts.keep_warm(call.syscall.pid, core, report.context)

    def _preempted(self, call: Call, core: Core, snapshot: Snapshot) -> None:
        if call.is_answered or call.ticket is None:
            release(snapshot)
            self._ends.let_go(call, Usage())
            return
        del self._running[call.syscall.id]
        call.core = None
        self._contexts.save(call.syscall.id, core, snapshot)
        pinned = (core,) if snapshot.kv is not None else call.route
        self._spending.reservations.park(call)
        self._scheduler.preempted(call.ticket, pinned, self._clock.now())
        if call.process.state is ProcessState.FROZEN:
            self._scheduler.hold(call.ticket, Hold.FROZEN)
        self._contexts.make_room(core)
        self._waiters.notify(self._running.values())
        self._tell.emit(EventKind.PREEMPTED, call, tokens=call.syscall.num_tokens)

    def failed(self, call: Call, core: Core, report: Failed) -> None:
        """Retry or fail a call whose run could not be completed."""
        is_over = call.is_answered or self._keeper.is_closing
        if not is_over and (again := self._retries.plan(call, core, report.error)) is not None:
            self._retry(call, core, report.error, again)
            return
        self._ends.let_go(call, report.usage)
        if not call.is_answered:
            self._ends.conclude(call, SyscallState.FAILED, error=report.error)

    def _stopped(self, call: Call, core: Core, report: Stopped) -> None:
        """A core has let go of a call, whether it was asked to or closes on its own."""
        if call.is_answered or self._keeper.is_closing:
            self._ends.let_go(call, report.usage)
            if not call.is_answered:
                closed = KernelClosed("the kernel shut down first")
                self._ends.conclude(call, SyscallState.CANCELLED, error=closed)
            return
        error = CoreError(core.name, "stopped without being asked", is_retryable=True)
        self.failed(call, core, Failed(report.run_id, error, report.usage))

    def _retry(self, call: Call, core: Core, error: KernelError, again: Retry) -> None:
        """Let a call whose run failed without effect wait for another run."""
        if call.ticket is None:
            raise KernelBug(f"{call.syscall!r} failed on a core without a ticket")
        del self._running[call.syscall.id]
        call.run_failed(error, self._clock.now(), counts=again.counts)
        self._spending.reservations.park(call)
        self._scheduler.retry(call.ticket, again.route, self._clock.now())
        if call.process.state is ProcessState.FROZEN:
            self._scheduler.hold(call.ticket, Hold.FROZEN)
        if again.delay_s > 0:
            self._scheduler.hold(call.ticket, Hold.BACKOFF)
            self._deadlines.later(
                call, again.delay_s, partial(self._end_backoff, call, call.ticket)
            )
        self._waiters.notify(self._running.values())
        self._tell.emit(EventKind.RETRIED, call, core=core.name, reason=str(error))

    def _end_backoff(self, call: Call, ticket: Ticket) -> None:
        if not call.is_answered and call.ticket is ticket:
            self._scheduler.release(ticket, Hold.BACKOFF)
            self._dispatch()
