"""Hold calls while their agent is frozen, or while their KV image is being moved."""

from __future__ import annotations

import asyncio

from aios_core.process import AgentProcess
from aios_core.scheduler.call import Call, preempt
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.waiting_calls import Hold, Ticket


class Freezer:
    """Holds the calls of frozen agents, and calls with a KV image that is being moved."""

    def __init__(self, state: DispatchState) -> None:
        self._scheduler = state.scheduler
        self._spending = state.spending
        self._waiters = state.waiters
        self._calls = state.calls
        self._running = state.running
        self._dispatch = state.dispatch

    def freeze(
        self, process: AgentProcess, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[None]:
        """Hold an agent's calls, and suspend the running ones at their next token.

        The returned future is done once no core works for the agent.
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
        """Hold a waiting call, and take it out of the queue for its budget.

        A held call at the head of that queue would block all calls behind it.
        """
        self._scheduler.hold(ticket, reason)
        self._spending.queue.discard(call)
        self._scheduler.release(ticket, Hold.BUDGET)
