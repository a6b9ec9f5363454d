"""Refuse calls when a queue is full, and estimate when to retry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aios_core.errors import Overloaded
from aios_core.process import AgentProcess
from aios_core.scheduler.allowance import EXPECTED_ANSWER_TOKENS, Estimates
from aios_core.scheduler.call import Call

_LEAST_S: Final = 0.05  # shortest retry time


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The bounds of a dispatcher's queues, waits and retries."""

    max_waiting: int = 10_000  # calls without a slot, of all agents
    max_waiting_per_agent: int = 1_000
    max_attempts: int = 4  # runs of one call, when its cores fail
    max_retry_s: float = 120.0  # from a call's first failure to the start of its last run
    core_wait_s: float = 10.0  # how long calls wait for a core that is down
    default_timeout_s: float | None = None
    expected_answer_tokens: int = EXPECTED_ANSWER_TOKENS  # until there are answers to learn from


class OverloadGuard:
    """Refuses calls when too many wait. Pure: the caller passes the time.

    The retry time of a refusal is the time in which the slots now in use would serve the
    waiting calls and finish the running ones, at the mean duration of recent runs.
    """

    def __init__(self, limits: QueueLimits, estimates: Estimates) -> None:
        self._limits = limits
        self._estimates = estimates

    def require_room(
        self, process: AgentProcess, num_waiting: int, running: Collection[Call], now: float
    ) -> None:
        """Raise `Overloaded` if too many calls wait, of the agent or of all."""
        limits = self._limits
        if num_waiting >= limits.max_waiting:
            retry_after_s = self._time_for(num_waiting, running, now)
            raise Overloaded("the kernel's queue", limits.max_waiting, retry_after_s)
        if len(process.live_calls) >= limits.max_waiting_per_agent:
            own = [call for call in running if call.process is process and not call.is_answered]
            num_own = len(process.live_calls) - len(own)
            # An agent without a running call has to wait for the other agents' calls first.
            retry_after_s = self._time_for(
                num_own if own else max(num_own, num_waiting), own or running, now
            )
            queue = f"the queue of agent {process.name!r}"
            raise Overloaded(queue, limits.max_waiting_per_agent, retry_after_s)

    def _time_for(self, num_waiting: int, running: Collection[Call], now: float) -> float:
        """Estimate the seconds until `num_waiting` calls and the running ones have ended."""
        mean_s = self._estimates.run_s
        left_s = sum(max(0.0, mean_s - _elapsed_s(call, now)) for call in running)
        work_s = left_s + num_waiting * mean_s
        return max(_LEAST_S, work_s / max(1, len(running)))


def _elapsed_s(call: Call, now: float) -> float:
    return call.syscall.running_s + now - call.syscall.state_since
