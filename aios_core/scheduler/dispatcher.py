"""Carry out the scheduler's decisions: accept, prepare, start and answer calls.

Promises: every accepted call is answered exactly once, with a value, an error or a
cancellation, even if its core misbehaves or `close` is called. An answered call holds no
slot, no reservation and no snapshot; only a cancelled call keeps its slot until its core
reports that the run has ended.

Everything here runs on the kernel's loop and returns at once. Cores report through
`sink`, from any thread; reports are handled in order of arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from functools import partial
from itertools import count
from typing import Any

from aios_core.budget import Price
from aios_core.clock import Clock
from aios_core.core import (
    Core,
    CoreDown,
    Failed,
    LoadChanged,
    Prepared,
    Report,
    ReportSink,
    Run,
    Starting,
)
from aios_core.errors import BudgetExceeded, KernelBug, KernelClosed, KernelError, SyscallCancelled
from aios_core.events import EventKind, EventStream
from aios_core.messages import Usage
from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler.allowance import Estimates
from aios_core.scheduler.call import Answer, Call, PriceList, preempt, release
from aios_core.scheduler.call_events import CallEvents
from aios_core.scheduler.core_changes import CoreChanges
from aios_core.scheduler.deadlines import Deadlines, WakeTimer
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.holds import Freezer
from aios_core.scheduler.outages import Outages, Steps
from aios_core.scheduler.overload import OverloadGuard, QueueLimits
from aios_core.scheduler.protocols import Contexts, Cores
from aios_core.scheduler.recovery import CoreSupervisor, Retries, RetryPolicy, as_kernel_error
from aios_core.scheduler.reports import Endings, ReportInbox, RunReports
from aios_core.scheduler.scheduler import Scheduler
from aios_core.scheduler.spending import Join, Spending, join_text
from aios_core.scheduler.waiting_calls import Hold
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate, Syscall, SyscallState
from aios_core.untrusted.third_party import RAISED, describe, pass_on

log = logging.getLogger(__name__)


class Dispatcher:
    """Moves calls between their callers, the scheduler and the cores.

    `DispatchState` holds the calls, and lists the invariants.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        cores: Cores,
        contexts: Contexts,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        events: EventStream,
        limits: QueueLimits | None = None,
        prices: PriceList = lambda _model: Price(),
        join: Join = join_text,
        ids: Iterator[int] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.limits = limits or QueueLimits()
        self._cores, self._contexts = cores, contexts
        self._loop, self._clock = loop, clock
        self._events = CallEvents(events, clock)
        self._observers = events.observers
        self._ids = ids or count(1)
        self._inbox = ReportInbox(loop, self._handle, self.dispatch)
        self._supervisor = CoreSupervisor(cores, clock, events, sink=self.sink, on_up=self._core_up)
        self._deadlines = Deadlines(clock, self._supervisor, self.cancel)
        self._is_closing = self._is_dispatch_due = False
        self._wake_timer = WakeTimer(clock, self.dispatch)
        self._tasks: set[asyncio.Future[Any]] = set()
        self._estimates = Estimates(self.limits.expected_answer_tokens)
        self._overload = OverloadGuard(self.limits, self._estimates)
        self._spending = Spending(
            prices,
            self._estimates,
            join,
            order=scheduler,
            now=clock.now,
            on_freed=self._dispatch_soon,
        )
        self._state = state = DispatchState(
            scheduler,
            contexts,
            self._spending,
            self._supervisor,
            self._events,
            clock,
            self.dispatch,
        )
        self._calls, self._running = state.calls, state.running
        self._freezer = Freezer(state)
        self._ends = Endings(state)
        rule = RetryPolicy(self.limits.max_attempts, self.limits.max_retry_s)
        retries = Retries(rule, self._supervisor, clock)
        self._reports = RunReports(state, self._ends, retries=retries, deadlines=self._deadlines)
        core_wait_s = self.limits.core_wait_s
        steps = self._steps()
        self._outages = Outages(state, cores, steps=steps, core_wait_s=core_wait_s)
        self.core_changes = CoreChanges(state, cores, steps=steps, outages=self._outages)

    def _steps(self) -> Steps:
        """Return the operations that `Outages` uses."""
        return Steps(
            attempt=self._ends.attempt,
            failed=self._reports.failed,
            fail=self._ends.fail,
            prepare=self._prepare,
            watch=self._watch,
        )

    def __repr__(self) -> str:
        return f"<Dispatcher: {len(self._calls)} calls, {len(self._running)} on cores>"

    # --- called by the kernel ----------------------------------------------------------------

    @property
    def num_in_flight(self) -> int:
        """Number of calls that have no answer yet."""
        return len(self._calls)

    def submit(
        self,
        process: AgentProcess,
        request: LLMGenerate,
        answer: Answer,
        *,
        timeout_s: float | None = None,
        priority: int | None = None,
        resume_from: Snapshot | None = None,
        approval: Awaitable[None] | None = None,
    ) -> Syscall:
        """Accept a call, and pass its outcome to `answer`.

        With an `approval`, the call waits for that first. If all of its cores are down, it
        waits for them for `core_wait_s`.

        Raises:
            KernelClosed: the kernel shuts down.
            NoSuchObject: no core serves the model.
            Overloaded: too many calls wait.
        """
        if self._is_closing:
            raise KernelClosed("the kernel is shutting down")
        self.require_room(process)
        route = self._cores.route(request.model)
        now = self._clock.now()
        syscall = Syscall(
            id=next(self._ids),
            pid=process.pid,
            request=request,
            submitted_at=now,
            priority=process.priority if priority is None else priority,
            state_since=now,
        )
        call = Call(syscall, process, answer, route, resume_from=resume_from)
        if timeout_s is None:
            timeout_s = self.limits.default_timeout_s
        if timeout_s is not None or process.wall is not None:
            self._deadlines.set(call, timeout_s, now)
        self._calls[syscall.id] = call
        process.live_calls.add(syscall.id)
        if self._observers:
            self._events.emit(EventKind.SUBMITTED, call)
        if process.wall is not None:
            self._deadlines.check_wall(call)
        if approval is not None:
            self._await_approval(call, approval)
        elif not call.is_answered:  # an observer or a deadline may have ended it already
            self._ends.attempt(call, self._prepare)
        return syscall

    def estimate_prompt(self, request: LLMGenerate, model: str) -> int:
        """Estimate a prompt's tokens, from the token ratio of the model's earlier calls."""
        return self._estimates.ratio(model).prompt_tokens(request)

    def require_room(self, process: AgentProcess) -> None:
        """Raise `Overloaded` if too many calls wait, of the agent or of all."""
        num_waiting = len(self._calls) - len(self._running)  # including those being prepared
        limits = self.limits
        if (
            num_waiting >= limits.max_waiting
            or len(process.live_calls) >= limits.max_waiting_per_agent
        ):
            running = self._running.values()
            self._overload.require_room(process, num_waiting, running, self._clock.now())

    def cancel(self, call_id: int, error: KernelError | None = None) -> bool:
        """Cancel a call; its caller receives `error`. False if it was answered already."""
        call = self._calls.get(call_id)
        if call is None or call.is_answered:
            return False
        reason = error or SyscallCancelled("withdrawn by its caller")
        self._ends.answer(call, SyscallState.CANCELLED, error=reason)
        self.dispatch()
        return True

    def freeze(self, process: AgentProcess) -> asyncio.Future[None]:
        """Hold an agent's calls, and suspend its running ones at their next token.

        The returned future is done once no core works for the agent.
        """
        return self._freezer.freeze(process, self._loop)

    def thaw(self, process: AgentProcess) -> None:
        """Let a frozen agent's calls run again."""
        self._freezer.thaw(process)

    def set_moving(self, call_id: int, is_moving: bool) -> None:
        """Keep a suspended call from resuming while its snapshot is being moved."""
        self._freezer.set_moving(call_id, is_moving)

    def calls_of(self, process: AgentProcess) -> list[Call]:
        """Return the calls of an agent that have no answer yet, oldest first."""
        return [self._calls[i] for i in sorted(process.live_calls)]

    def on_cores_started(self) -> None:
        """Emit which cores are up after the start, and restart those that failed."""
        self._outages.cores_started()

    def handle_reports(self) -> None:
        """Handle at once what the cores have reported so far."""
        self._inbox.drain()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, wait up to `timeout_s` for those in flight, then cancel them."""
        self._is_closing = self._supervisor.is_closing = True
        end = self._clock.now() + timeout_s
        while any(not call.is_answered for call in self._calls.values()):
            if self._clock.now() >= end:
                break
            await asyncio.sleep(min(0.01, max(0.0, end - self._clock.now())))
        for call in tuple(self._calls.values()):
            if not call.is_answered:
                closed = KernelClosed("the kernel shut down first")
                self._ends.fail(call, closed, SyscallState.CANCELLED)

    async def close(self) -> None:
        """Cancel all remaining calls and stop. The cores must not report after this."""
        await self.drain(0)
        self._wake_timer.set()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._inbox.drain()
        for call in tuple(self._running.values()):
            self._ends.release(call, Usage())

    # --- reports of the cores ----------------------------------------------------------------

    def sink(self, core: Core) -> ReportSink:
        """Return the function by which a core reports, from any thread."""
        return self._inbox.sink(core)

    def _handle(self, core: Core, report: Report) -> None:
        if isinstance(report, CoreDown | LoadChanged | Starting):
            self._outages.take(core, report)
            return
        call = self._running.get(report.run_id)
        if call is not None and call.core is core:
            self._ends.attempt(call, self._reports.take, core, report)

    # --- from submit to run ------------------------------------------------------------------

    def _await_approval(self, call: Call, approval: Awaitable[None]) -> None:
        """Prepare a call once it is approved; fail it if it is denied."""
        call.approval = approval
        call.preparing = asyncio.ensure_future(approval, loop=self._loop)
        self._watch(call.preparing)
        call.preparing.add_done_callback(partial(self._approved, call))

    def _prepare(self, call: Call) -> None:
        """Measure the request, in a task if the core needs time for that."""
        core = call.route[0] if self._cores.all_up else self._supervisor.first_up(call.route)
        try:
            prepared = core.prepare(call.syscall.request)
            if not isinstance(prepared, Prepared):
                call.preparing = asyncio.ensure_future(prepared, loop=self._loop)
                self._watch(call.preparing)
                call.preparing.add_done_callback(partial(self._prepared, call, core))
                return
        except RAISED as exc:  # a core's exception fails this call only
            pass_on(exc)
            self._ends.answer(call, SyscallState.FAILED, error=as_kernel_error(exc, core))
            return
        self._enqueue(call, prepared)

    def _approved(self, call: Call, done: asyncio.Future[None]) -> None:
        """Continue a call that was approved; fail one that was denied."""
        call.preparing = call.approval = None
        error = SyscallCancelled("its approval was") if done.cancelled() else done.exception()
        if call.is_answered:
            return
        if error is None:
            self._ends.attempt(call, self._prepare)
            return
        if not isinstance(error, KernelError):
            error = KernelBug(f"the approval of {call.syscall!r} failed: {describe(error)}")
        self._ends.answer(call, SyscallState.FAILED, error=error)

    def _prepared(self, call: Call, core: Core, done: asyncio.Future[Prepared]) -> None:
        if call.preparing is not done:  # the call is being prepared for other cores
            return
        call.preparing = None
        error = SyscallCancelled("its preparation was") if done.cancelled() else done.exception()
        if call.is_answered:
            return
        if error is None:
            self._ends.attempt(call, self._enqueue, done.result())
        else:
            self._ends.answer(call, SyscallState.FAILED, error=as_kernel_error(error, core))

    def _enqueue(self, call: Call, prepared: Prepared) -> None:
        try:
            self._spending.reservations.prepare(call, prepared)
        except BudgetExceeded as exc:
            self._refuse(call, exc)
            return
        call.ticket = self.scheduler.submit(
            call.syscall,
            call.process,
            call.route,
            prompt_tokens=call.allowance.prompt_tokens if call.allowance else prepared.num_tokens,
            max_tokens=call.prepared.max_tokens if call.prepared else prepared.max_tokens,
            now=self._clock.now(),
            expect_answer=partial(self._estimates.answer_tokens, call.process.pid, call.model),
            ratio=None if prepared.is_exact else self._estimates.ratio(call.model),
        )
        if call.process.state is ProcessState.FROZEN:
            self.scheduler.hold(call.ticket, Hold.FROZEN)
        if not (self._cores.all_up or self._supervisor.has_core(call)):
            self._outages.fail_later(call)
        self.dispatch()

    def _core_up(self) -> None:
        self.core_changes.routes_changed()

    def dispatch(self) -> None:
        """Fill the free slots with the best waiting calls."""
        policy = self.scheduler.policy
        self._is_dispatch_due = False
        if self._spending.queue.freed:
            self._wake_calls_waiting_for_budgets()
        if self.scheduler.unranked:
            self._refuse_unranked()
        while self.scheduler.num_ready:
            assignment = self.scheduler.pick_next(self._cores, self._clock.now())
            if assignment is None:
                self._preempt_at_once()
                self._wake_when_available()
            else:
                call = self._calls[assignment.ticket.syscall.id]
                self._ends.attempt(call, self._start, assignment.core)
            has_refused = bool(self.scheduler.unranked) and self._refuse_unranked()
            if not has_refused and assignment is None:
                break
        if self.scheduler.policy is not policy:
            self._events.policy_changed(self.scheduler.policy.name)

    def _dispatch_soon(self) -> None:
        if not self._is_dispatch_due and not self._loop.is_closed():
            self._is_dispatch_due = True
            self._loop.call_soon(self.dispatch)

    def _wake_calls_waiting_for_budgets(self) -> None:
        """Release calls that may fit their budget now; refuse those that cannot be paid."""
        for call, error in self._spending.queue.wake():
            if error is not None and not call.has_partial_answer:
                self._refuse(call, error)
            elif call.ticket is not None:
                self.scheduler.release(call.ticket, Hold.BUDGET)

    def _refuse(self, call: Call, error: BudgetExceeded) -> None:
        """End a call that cannot be paid: with its partial answer, or with the error."""
        if call.has_partial_answer:
            self._ends.cut(call)
            return
        self._events.emit(EventKind.REFUSED, call, reason=str(error))
        if not call.is_answered:
            self._ends.fail(call, error)

    def _refuse_unranked(self) -> bool:
        """Fail the calls that the policy failed to rank. Returns whether there were any."""
        unranked = self.scheduler.take_unranked()
        for ticket, error in unranked:
            call = self._calls.get(ticket.syscall.id)
            if call is not None and call.ticket is ticket:
                self._ends.fail(call, error)
        return bool(unranked)

    def _preempt_at_once(self) -> None:
        """Preempt running calls that the policy lets waiting ones interrupt."""
        for ticket in self.scheduler.victims(self._clock.now()):
            if ticket.core is not None:
                preempt(ticket.core, ticket.syscall.id)

    def _start(self, call: Call, core: Core) -> None:
        """Start a run if it can be paid now; otherwise the call leaves its slot and waits."""
        try:
            blocker = self._spending.begin(call)
        except BudgetExceeded as exc:
            self._refuse(call, exc)
            return
        if blocker is None:
            self._run(call, core)
        elif call.ticket is not None:
            self.scheduler.retry(call.ticket, call.ticket.route, self._clock.now())
            self.scheduler.hold(call.ticket, Hold.BUDGET)
            self._spending.queue.add(blocker, call)
            self._events.emit(EventKind.WAITING_FOR_BUDGET, call, budget=blocker.owner)

    def _run(self, call: Call, core: Core) -> None:
        syscall = call.syscall
        if call.prepared is None or call.allowance is None:
            raise KernelBug(f"{syscall!r} was dispatched before it was prepared")
        snapshot = call.resume_from
        if syscall.num_preemptions:
            snapshot = self._contexts.restore(syscall.id) or snapshot
        warm = None
        if snapshot is None and core.capabilities.warm_contexts:
            warm = self._contexts.take_warm(syscall.pid, core)
        if core.capabilities.kv_snapshots:
            self._contexts.make_room(core, call.prepared.num_tokens + syscall.num_tokens)
        call.on_run_started(core, snapshot)
        if syscall.first_run_at is None:
            syscall.first_run_at = self._clock.now()
        self._running[syscall.id] = call
        run = Run(
            id=syscall.id,
            pid=syscall.pid,
            request=syscall.request,
            prepared=call.prepared,
            snapshot=snapshot,
            warm=warm,
            priority=syscall.priority,
            wants_deltas=call.answer.wants_deltas or call.allowance.reserved is not None,
            token_limit=call.allowance.limit_of_each,
        )
        try:
            core.run(run)
        except RAISED as exc:  # a core must not raise; if it does, this call fails
            pass_on(exc)
            for unused in (snapshot, warm):  # the core did not take them over
                if unused is not None:
                    release(unused)
            self._reports.failed(
                call, core, Failed(syscall.id, as_kernel_error(exc, core, "begin"))
            )
            return
        if self._observers:
            self._events.emit(EventKind.DISPATCHED, call, core=core.name)

    # --- timers and tasks --------------------------------------------------------------------

    def _wake_when_available(self) -> None:
        """Set a timer for when a paused core accepts calls again, or memory becomes free."""
        soonest, now = self._outages.next_available_in_s(), self._clock.now()
        if soonest is not None and soonest > self.limits.max_retry_s:
            self._outages.refuse_paused(self.limits.max_retry_s)
        available_at = None if soonest is None else now + soonest
        self._wake_timer.set(available_at, self.scheduler.reconsider_at(now))

    def _watch(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self._state.check()
