"""Calls that are held back: their agent is frozen, or their KV image is being moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler.call import Call, preempt
from aios_core.scheduler.scheduler import Scheduler
from aios_core.scheduler.spending import Spending
from aios_core.scheduler.ticket import Hold, Ticket


class FreezeWaiters:
    """Futures that resolve once no core works for a frozen agent. Used on the kernel's loop."""

    def __init__(self) -> None:
        self.waiters: list[tuple[AgentProcess, asyncio.Future[None]]] = []

    def wait(self, process: AgentProcess, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that is done when `notify` finds the agent off the cores."""
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiters.append((process, waiter))
        return waiter

    def notify(self, running: Iterable[Call]) -> None:
        """Resolve what waits for agents without a running call; these calls run."""
        busy = {call.process for call in running if call.process.state is ProcessState.FROZEN}
        waiters, self.waiters = self.waiters, []
        for process, waiter in waiters:
            if process in busy:
                self.waiters.append((process, waiter))
            elif not waiter.done():
                waiter.set_result(None)


class Freezer:
    """Holds calls and lets them go again.

    Args:
        calls: all that have no answer, by id.
        running: those that a core works on.
        dispatch: fills the free slots.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        spending: Spending,
        waiters: FreezeWaiters,
        *,
        calls: Mapping[int, Call],
        running: Mapping[int, Call],
        dispatch: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._spending = spending
        self._waiters = waiters
        self._calls = calls
        self._running = running
        self._dispatch = dispatch

    def freeze(
        self, process: AgentProcess, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[None]:
        """Hold an agent's calls, and suspend the running ones at their next token.

        The future is done once no core works on the agent any more.
        """
        calls = [self._calls[i] for i in process.live_calls]
        for call in calls:
            if call.core is not None and call.core.capabilities.preemptible:
                preempt(call.core, call.syscall.id)
            elif call.ticket is not None and call.core is None:
                self._set_aside(call, call.ticket, Hold.FROZEN)
        done = self._waiters.wait(process, loop)
        self._waiters.notify(self._running.values())
        return done

    def thaw(self, process: AgentProcess) -> None:
        """Let a frozen agent's calls run again."""
        for call in [self._calls[i] for i in sorted(process.live_calls)]:
            if call.ticket is not None:
                self._scheduler.release(call.ticket, Hold.FROZEN)
        self._dispatch()

    def set_moving(self, call_id: int, is_moving: bool) -> None:
        """Keep a suspended call from resuming while its snapshot is being moved."""
        call = self._calls.get(call_id)
        if call is None or call.ticket is None or call.core is not None or call.is_answered:
            return
        if is_moving:
            self._set_aside(call, call.ticket, Hold.MOVING)
        else:
            self._scheduler.release(call.ticket, Hold.MOVING)
            self._dispatch()

    def _set_aside(self, call: Call, ticket: Ticket, reason: Hold) -> None:
        """Hold a waiting call. One that waited for a budget stands in nobody's way then."""
        self._scheduler.hold(ticket, reason)
        self._spending.queue.discard(call)
        self._scheduler.release(ticket, Hold.BUDGET)
