"""Handle the reports of cores about the calls that they work on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aios_core.clock import Clock
from aios_core.core import Core, Failed, Finished, Preempted, Progress, Stopped
from aios_core.errors import CoreError, KernelBug, KernelClosed, KernelError
from aios_core.events import EventKind
from aios_core.messages import Usage
from aios_core.process import ProcessState
from aios_core.scheduler.call import Call, deliver, preempt, release
from aios_core.scheduler.call_endings import Endings
from aios_core.scheduler.call_events import CallEvents
from aios_core.scheduler.deadlines import Deadlines
from aios_core.scheduler.holds import FreezeWaiters
from aios_core.scheduler.protocols import Contexts
from aios_core.scheduler.recovery import CoreKeeper, Retries, Retry
from aios_core.scheduler.scheduler import Scheduler
from aios_core.scheduler.spending import Spending
from aios_core.scheduler.ticket import Hold, Ticket
from aios_core.snapshot import Snapshot
from aios_core.syscalls import SyscallState

RunReport = Progress | Finished | Preempted | Failed | Stopped


class RunReports:
    """Moves a running call on: to its caller, back into the queue, or to its end.

    Args:
        running: the dispatcher's; a call that its core has let go of leaves it here.
        dispatch: fills the free slots.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        contexts: Contexts,
        spending: Spending,
        ends: Endings,
        *,
        keeper: CoreKeeper,
        retries: Retries,
        deadlines: Deadlines,
        waiters: FreezeWaiters,
        tell: CallEvents,
        clock: Clock,
        running: dict[int, Call],
        dispatch: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._contexts = contexts
        self._spending = spending
        self._ends = ends
        self._keeper = keeper
        self._retries = retries
        self._deadlines = deadlines
        self._waiters = waiters
        self._tell = tell
        self._clock = clock
        self._running = running
        self._dispatch = dispatch

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
            self._contexts.park(call.syscall.pid, core, report.context)

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
        self._contexts.relieve(core)
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
