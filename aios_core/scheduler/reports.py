"""Handle the reports of cores, and answer calls.

    a core, on any thread ──> ReportInbox ──> RunReports ──> Endings ──> the caller
                                                  └──> back into the queue (preempted, retried)

Promises: reports are handled on the kernel's loop in order of arrival, and never inside the call
that delivers them: a core may report from within `run`. A report that cannot be handled does not
affect the others. Each call is answered once, and everything it holds is freed, even after errors.
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
from aios_core.scheduler.continuation import cores_to_continue, loss_of, write_off
from aios_core.scheduler.deadlines import Deadlines
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.recovery import Retries, Retry
from aios_core.scheduler.waiting_calls import Hold, Route, Ticket
from aios_core.snapshot import Snapshot
from aios_core.syscalls import SyscallState
from aios_core.untrusted.third_party import RAISED, describe, detach, log_raised, pass_on, type_name

log = logging.getLogger(__name__)


class ReportInbox:
    """A queue of reports, from any thread to the kernel's loop.

    Thread-safe without a lock: the queue's ends are atomic, and the wake flag is cleared before the
    queue is read, so a late report wakes again.

    Args:
        loop: where reports are handled.
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
        """Return the function by which a core reports."""
        return partial(self._receive, core)

    def drain(self) -> None:
        """Handle all queued reports. Called on the loop's thread."""
        self._is_woken = False
        try:
            while self._reports:
                self._handle_one(*self._reports.popleft())
        finally:
            if self._reports:  # an exception ends the program; still handle the rest, later
                self._wake()
            self._handled()

    def _handle_one(self, core: Core, report: Report) -> None:
        try:
            self._handle(core, report)
        except RAISED as exc:  # one report must not prevent the others from being handled
            pass_on(exc)
            kind = type_name(report)  # it may be of a class of the core's own
            log_raised(log, exc, "a report of core %r could not be handled: %s", core.name, kind)

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
        except RuntimeError:  # the loop is closed, so no caller is left
            self._reports.clear()


Args = TypeVarTuple("Args")


class Endings:
    """Ends calls. A call is answered first; once its core has stopped, `release` frees the rest."""

    def __init__(self, state: DispatchState) -> None:
        self._scheduler = state.scheduler
        self._contexts = state.contexts
        self._spending = state.spending
        self._estimates = state.spending.estimates
        self._waiters = state.waiters
        self._events = state.events
        self._observers = state.events.observers
        self._clock = state.clock
        self._calls = state.calls
        self._running = state.running

    def attempt(self, call: Call, step: Callable[[Call, *Args], object], *args: *Args) -> None:
        """Run a step for a call, so that an exception fails this call only."""
        try:
            step(call, *args)
        except RAISED as exc:  # a policy, a core or a caller may raise anything
            pass_on(exc)
            log_raised(log, exc, "%r could not be handled", call.syscall)
            if not call.is_answered:
                self.fail(call, _as_bug(exc, call))

    def answer(
        self,
        call: Call,
        outcome: SyscallState,
        *,
        completion: Completion | None = None,
        error: KernelError | None = None,
    ) -> None:
        """Answer a call, and free what it holds, except the slot of a core that still works."""
        call.is_answered = True
        try:
            self._close_accounts(call, outcome, completion)
            if self._observers:
                self._events.ended(call, outcome, completion, error)
        finally:
            if completion is not None:
                deliver(call.answer.resolve, completion)
            else:
                reason = error or KernelBug(f"{call.syscall!r} ended without a reason")
                deliver(call.answer.reject, reason)

    def fail(
        self, call: Call, error: KernelError, outcome: SyscallState = SyscallState.FAILED
    ) -> None:
        """Answer one of several calls with an error. Errors in doing so are only logged."""
        try:
            self.answer(call, outcome, error=error)
        except RAISED as exc:  # the call is answered already; only its clean-up failed
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
        self._events.cut(call, completion)
        call.record_usage(completion.usage)
        # Settle before answering, so that the caller sees the cost in its budget.
        self._events.unpaid(call, self._spending.settle(call))
        self.answer(call, SyscallState.DONE, completion=completion)

    def release(self, call: Call, usage: Usage) -> None:
        """Record that a core has stopped working on a call, with its usage."""
        core, call.core = call.core, None
        self._running.pop(call.syscall.id, None)
        if call.answered_with is not None and not call.is_answered:
            call.record_usage(call.answered_with.usage)
        elif call.answered_with is None:
            believed, fault = self._spending.verdicts.usage(call, core or call.route[0], usage)
            self._events.fault(call, core, fault)
            call.record_usage(believed)
        if self._waiters.waiters:
            self._waiters.notify(self._running.values())
        if call.is_answered:
            self._forget(call)

    def _close_accounts(
        self, call: Call, outcome: SyscallState, completion: Completion | None
    ) -> None:
        """Free what an answered call holds, except the slot of a core that still works."""
        syscall, now = call.syscall, self._clock.now()
        syscall.finished_at = now
        call.release()
        if call.ticket is None:
            syscall.move_to(outcome, now)
        else:
            cost = service_of(completion.usage) if completion else None
            self._scheduler.finish(call.ticket, outcome, now, cost=cost, answer=completion)
        call.record_outcome(outcome)
        if outcome is not SyscallState.CANCELLED:
            self._estimates.learn_run(syscall.running_s)
        if call.core is not None:
            cancel(call.core, syscall.id)  # settled once the core has stopped
        else:
            if syscall.usage is NO_USAGE or syscall.usage == NO_USAGE:
                call.record_usage(self._spending.verdicts.usage(call, call.route[0], NO_USAGE)[0])
            self._forget(call)

    def _forget(self, call: Call) -> None:
        """Free what an answered call still holds, after its core has stopped."""
        self._calls.pop(call.syscall.id, None)
        try:
            if call.syscall.num_preemptions:
                self._contexts.discard(call.syscall.id)
        finally:
            unpaid = self._spending.settle(call)
            if unpaid is not NOTHING:
                self._events.unpaid(call, unpaid)


def _as_bug(exc: BaseException, call: Call) -> KernelError:
    if isinstance(exc, KernelError):
        return exc
    bug = KernelBug(f"{call.syscall!r} could not be handled: {describe(exc)}")
    bug.__cause__ = detach(exc)
    return bug


RunReport = Progress | Finished | Preempted | Failed | Stopped


class RunReports:
    """Handles reports about running calls: deltas, suspension, failure, end."""

    def __init__(
        self, state: DispatchState, ends: Endings, *, retries: Retries, deadlines: Deadlines
    ) -> None:
        self._scheduler = state.scheduler
        self._contexts = state.contexts
        self._spending = state.spending
        self._ends = ends
        self._supervisor = state.supervisor
        self._retries = retries
        self._deadlines = deadlines
        self._waiters = state.waiters
        self._events = state.events
        self._clock = state.clock
        self._running = state.running
        self._dispatch = state.dispatch
        self._state = state

    def take(self, call: Call, core: Core, report: RunReport) -> None:
        """Handle a report about a call that the core works on."""
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
                self._events.fault(call, core, verdict.fault)
            if verdict.was_cut:
                self._events.cut(call, verdict.completion)
        self._ends.release(call, said.usage)
        if not call.is_answered:
            self._ends.answer(call, SyscallState.DONE, completion=call.answered_with)
        if report.context is None:
            return
        if call.process.state is ProcessState.EXITED or self._supervisor.is_closing:
            release(report.context)
        else:
            self._contexts.keep_warm(call.syscall.pid, core, report.context)

    def _preempted(self, call: Call, core: Core, snapshot: Snapshot) -> None:
        if call.is_answered or call.ticket is None:
            release(snapshot)
            self._ends.release(call, Usage())
            return
        del self._running[call.syscall.id]
        call.core = None
        if core in self._state.leaving and cores_to_continue(call.route, snapshot):
            release(snapshot)
            snapshot = snapshot.without_kv()
        self._contexts.save(call.syscall.id, core, snapshot)
        pinned: Route = (core,)  # where its KV image is
        if snapshot.kv is None and call.route != pinned:
            pinned = cores_to_continue(call.route, snapshot) or pinned
        self._spending.reservations.park(call)
        self._scheduler.preempted(call.ticket, pinned, self._clock.now())
        if call.process.state is ProcessState.FROZEN:
            self._scheduler.hold(call.ticket, Hold.FROZEN)
        self._contexts.make_room(core)
        self._waiters.notify(self._running.values())
        self._events.emit(EventKind.PREEMPTED, call, tokens=call.syscall.num_tokens)

    def failed(self, call: Call, core: Core, report: Failed) -> None:
        """Retry a call after a failed run, from the tokens that can be kept, or fail it."""
        is_over = call.is_answered or self._supervisor.is_closing
        if not is_over and (again := self._retries.plan(call, core, report)) is not None:
            self._retry(call, core, report, again)
            return
        self._ends.release(call, report.usage)
        if not call.is_answered:
            error = loss_of(call, core, report.error)
            self._ends.answer(call, SyscallState.FAILED, error=error)

    def _stopped(self, call: Call, core: Core, report: Stopped) -> None:
        """End or retry a call that its core stopped, on request or because the core closes."""
        if call.is_answered or self._supervisor.is_closing:
            self._ends.release(call, report.usage)
            if not call.is_answered:
                closed = KernelClosed("the kernel shut down first")
                self._ends.answer(call, SyscallState.CANCELLED, error=closed)
            return
        error = CoreError(core.name, "stopped the run without a request", is_retryable=True)
        self.failed(call, core, Failed(report.run_id, error, report.usage))

    def _retry(self, call: Call, core: Core, report: Failed, again: Retry) -> None:
        """Queue a call again after a failed run, with the tokens that can be kept."""
        if call.ticket is None:
            raise KernelBug(f"{call.syscall!r} failed on a core without a ticket")
        error, start, num_before = report.error, again.start, call.syscall.num_tokens
        del self._running[call.syscall.id]
        if start.has_losses:
            used, fault = self._spending.verdicts.usage(call, core, report.usage)
            self._events.fault(call, core, fault)
            self._events.unpaid(call, write_off(call, used, start))
        call.on_run_failed(
            error,
            self._clock.now(),
            counts=again.counts,
            resume_from=start.snapshot,
            has_advanced=start.has_advanced,
        )
        self._spending.reservations.park(call)
        self._scheduler.retry(call.ticket, again.route, self._clock.now())
        if not self._supervisor.has_core(call):
            self._state.fail_unserved(call)
        if call.process.state is ProcessState.FROZEN:
            self._scheduler.hold(call.ticket, Hold.FROZEN)
        if again.delay_s > 0:
            self._scheduler.hold(call.ticket, Hold.BACKOFF)
            self._deadlines.later(
                call, again.delay_s, partial(self._end_backoff, call, call.ticket)
            )
        self._waiters.notify(self._running.values())
        kept, lost = call.syscall.num_tokens, num_before - call.syscall.num_tokens
        facts = {"tokens": kept, "lost_tokens": lost} if num_before else {}
        self._events.emit(EventKind.RETRIED, call, core=core.name, reason=str(error), **facts)

    def _end_backoff(self, call: Call, ticket: Ticket) -> None:
        if not call.is_answered and call.ticket is ticket:
            self._scheduler.release(ticket, Hold.BACKOFF)
            self._dispatch()
