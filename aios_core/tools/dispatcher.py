"""Carry out what the tool scheduler decides: wait for a slot, run an attempt, end it.

Promise: every attempt has one outcome for its caller, at the latest at its timeout or its
caller's deadline. What it holds (thread, exclusive resources) is held until the tool's code
has really ended, which may be later. Runs on the kernel's loop; tools run on threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from aios_core.clock import Clock, Timer
from aios_core.errors import KernelError, ToolError
from aios_core.process import AgentProcess
from aios_core.tools.attempt import Result, counts_as_tool_failure, run_attempt
from aios_core.tools.context import ToolContext
from aios_core.tools.process_pool import ToolProcessPool
from aios_core.tools.scheduler import HANG_GRACE_S, ToolScheduler
from aios_core.tools.thread_pool import ToolThreadPool
from aios_core.tools.tool import Tool
from aios_core.tools.tool_queue import TicketState, ToolQueue, ToolTicket
from aios_core.wait_reason import doing

log = logging.getLogger(__name__)

Outcome = Result | KernelError
START_UP_S: Final = 60.0  # for a tool's process to start and to load the tool
_NOT_STARTED: Final = f"its process was not ready within {START_UP_S:g} s; the tool has not run"


class ToolHung(ToolError):
    """An attempt took longer than its tool is allowed."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """One run of a tool, until its code has really ended."""

    ticket: ToolTicket
    context: ToolContext
    answer: asyncio.Future[Result]
    on_late: Callable[[Outcome], object]  # gets the outcome if the caller stopped waiting
    timers: list[Timer] = field(default_factory=list)


class ToolDispatcher:
    """Runs the attempts of tool calls in the order of the tool scheduler.

    Used on the kernel's loop only.
    """

    def __init__(
        self,
        scheduler: ToolScheduler,
        *,
        clock: Clock,
        default_timeout_s: float,
        code_timeout_s: float,
        max_result_bytes: int,
    ) -> None:
        self.scheduler = scheduler
        self._clock = clock
        self._default_timeout_s = default_timeout_s
        self._code_timeout_s = code_timeout_s  # of tools that run code, which has a limit too
        self._max_result_bytes = max_result_bytes
        self._workers = ToolThreadPool()
        self._processes = ToolProcessPool()
        self._waiting: dict[int, asyncio.Future[None]] = {}  # by ticket
        self._attempts: set[_Attempt] = set()
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<ToolDispatcher: {self.scheduler!r}>"

    async def wait_for_slot(self, process: AgentProcess, tool: Tool, queue: str) -> ToolTicket:
        """Wait until a call may run. It holds its slot until `drop`, or the end of an attempt.

        Raises:
            Overloaded: too many calls wait.
            ToolUnavailable: the tool's circuit breaker is open, or its calls hang.
        """
        ticket = self.scheduler.submit(
            tool,
            queue,
            pid=process.pid,
            agent=(process.name, process.weight),
            group=(process.group.name, process.group.weight),
            priority=process.priority,
            now=self._clock.now(),
        )
        ready = self._waiting[ticket.id] = asyncio.get_running_loop().create_future()
        self._pump()
        try:
            with doing(f"waiting for a slot of tool {tool.name!r}"):
                await ready
        except BaseException:
            self.drop(ticket)
            raise
        finally:
            self._waiting.pop(ticket.id, None)
        return ticket

    def drop(self, ticket: ToolTicket) -> None:
        """Release the slot of a call that does not run its tool after all."""
        self.scheduler.end(ticket, self._clock.now())
        self._pump()

    async def attempt(
        self,
        ticket: ToolTicket,
        arguments: Mapping[str, Any],
        context: ToolContext,
        on_late: Callable[[Outcome], object],
    ) -> Result:
        """Run the tool once. Cancelling the await cancels the run, as far as possible.

        Args:
            ticket: the call, which holds a slot.
            arguments: they fit the tool's schema.
            context: passed to the tool if it asks for one.
            on_late: called with the outcome if the caller has stopped waiting before.

        Raises:
            ToolHung: the tool took longer than its timeout.
            KernelError: the error of the kernel that the tool raised, or a `ToolError` for any
                other exception.
        """
        loop = asyncio.get_running_loop()
        attempt = _Attempt(ticket, context, loop.create_future(), on_late)
        self._attempts.add(attempt)
        if ticket.tool.isolation == "process":
            self._expire_in(attempt, START_UP_S, ToolError(ticket.tool.name, _NOT_STARTED))
        else:
            self._begin(attempt)

        def on_started() -> None:
            loop.call_soon_threadsafe(self._begin, attempt)

        def work() -> None:
            outcome = run_attempt(
                ticket.tool,
                arguments,
                context,
                processes=self._processes,
                max_bytes=self._max_result_bytes,
                on_started=on_started,
            )
            context.cancellation.end()
            try:
                loop.call_soon_threadsafe(self._ended, attempt, outcome)
            except RuntimeError:  # the kernel's loop is closed
                return

        try:
            self._workers.submit(work)
            with doing(f"running tool {ticket.tool.name!r}"):
                return await attempt.answer
        except asyncio.CancelledError:
            self._abandon(attempt)
            raise

    def forget(self, pid: int) -> None:
        """Drop what is kept for an exited agent."""
        self.scheduler.forget(pid)

    async def close(self) -> None:
        """Cancel what runs and end processes and idle threads. Threads that hang are abandoned."""
        for attempt in tuple(self._attempts):
            attempt.context.cancellation.set()
            self._cancel_timers(attempt)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._processes.close)
        await asyncio.to_thread(self._workers.close)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        self.scheduler.check()

    # --- inside ------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start all calls that may run; set a timer for when a rate allows the next."""
        now = self._clock.now()
        self._refuse_unranked()
        while (ticket := self.scheduler.pick(now)) is not None:
            ready = self._waiting.get(ticket.id)
            if ready is not None and not ready.done():
                ready.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        next_at = self.scheduler.next_at(now)
        self._timer = None if next_at is None else self._clock.call_at(next_at, self._pump)

    def _refuse_unranked(self) -> None:
        """Fail the calls that the policy could not rank; `wait_for_slot` then removes them."""
        for ticket, error in self.scheduler.take_unranked():
            ready = self._waiting.get(ticket.id)
            if ready is not None and not ready.done():
                ready.set_exception(error)

    def _ended(self, attempt: _Attempt, outcome: Outcome) -> None:
        """Release what the attempt held, now that the tool's code has really ended."""
        now = self._clock.now()
        ticket = attempt.ticket
        is_late = attempt.answer.done()
        self._attempts.discard(attempt)
        self._cancel_timers(attempt)
        self.scheduler.end(ticket, now)
        if is_late:
            attempt.on_late(outcome)
        elif isinstance(outcome, Result):
            ticket.queue.breaker.succeed(ticket.pid)
            attempt.answer.set_result(outcome)
        else:
            if counts_as_tool_failure(outcome):
                self._failed(ticket)
            attempt.answer.set_exception(outcome)
        self._pump()

    def _begin(self, attempt: _Attempt) -> None:
        """Start the timeout of an attempt: from now on the tool itself runs."""
        if attempt.answer.done():
            return
        tool = attempt.ticket.tool
        default_s = self._code_timeout_s if tool.runs_code else self._default_timeout_s
        timeout_s = tool.timeout_s or default_s
        late = ToolHung(tool.name, f"did not end within {timeout_s:g} s")
        self._expire_in(attempt, timeout_s, late)

    def _expire_in(self, attempt: _Attempt, timeout_s: float, late: ToolError) -> None:
        """Set when an attempt fails unless it has ended, instead of the time set before."""
        self._cancel_timers(attempt)
        expire = partial(self._expire, attempt, late)
        attempt.timers.append(self._clock.call_at(self._clock.now() + timeout_s, expire))

    def _expire(self, attempt: _Attempt, late: ToolError) -> None:
        if attempt.answer.done():
            return
        attempt.answer.set_exception(late)
        self._failed(attempt.ticket)
        self._abandon(attempt)

    def _abandon(self, attempt: _Attempt) -> None:
        """Free the slot of an attempt without a caller; its tool may still run."""
        if attempt not in self._attempts or attempt.ticket.state is not TicketState.RUNNING:
            return
        now = self._clock.now()
        self.scheduler.mark_lingering(attempt.ticket, now)
        self._cancel_timers(attempt)
        attempt.timers.append(
            self._clock.call_at(now + HANG_GRACE_S, partial(self._report_hang, attempt))
        )
        attempt.context.cancellation.set()
        self._pump()

    def _report_hang(self, attempt: _Attempt) -> None:
        """Report a tool that still runs without a caller: refuse the calls that wait for it."""
        if attempt in self._attempts:
            log.warning("a call of tool %s hangs and keeps its thread", attempt.ticket.tool.id)
            for queue in {ticket.queue for ticket in self.scheduler}:
                self._refuse_waiting(queue)

    def _failed(self, ticket: ToolTicket) -> None:
        if ticket.queue.breaker.fail(ticket.pid, self._clock.now()):
            self._refuse_waiting(ticket.queue)

    def _refuse_waiting(self, queue: ToolQueue) -> None:
        now = self._clock.now()
        for ticket in tuple(queue):
            ready = self._waiting.get(ticket.id)
            refusal = self.scheduler.refusal(queue, ticket.tool, ticket.pid, now)
            if refusal is not None and ready is not None and not ready.done():
                ready.set_exception(refusal)

    @staticmethod
    def _cancel_timers(attempt: _Attempt) -> None:
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers.clear()
