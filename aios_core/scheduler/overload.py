"""Refuse calls when a queue is full, and estimate when to retry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aios_core.errors import Overloaded
from aios_core.process import AgentProcess
from aios_core.scheduler.allowance import EXPECTED_ANSWER_TOKENS, Estimates
from aios_core.scheduler.call import Call

_LEAST_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queues of a dispatcher, and how failed calls are tried again."""

    max_waiting: int = 10_000  # calls without a slot, of all agents
    max_waiting_per_agent: int = 1_000
    max_attempts: int = 4  # of one call, when its cores fail
    max_retry_s: float = 120.0  # from a call's first failure to its last attempt
    core_wait_s: float = 10.0  # calls wait that long for a core that is down
    default_timeout_s: float | None = None
    expected_answer_tokens: int = EXPECTED_ANSWER_TOKENS  # before there are any to learn from


class OverloadGuard:
    """Refuses calls when too many wait. Pure: time is given.

    A refusal says when the queue will be worked off, as things are: the calls that wait
    and what is left of those that run, at the mean running time of late, on the slots
    that are in use.
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
            # Without a slot of its own, it waits for the others first.
            retry_after_s = self._time_for(
                num_own if own else max(num_own, num_waiting), own or running, now
            )
            queue = f"the queue of agent {process.name!r}"
            raise Overloaded(queue, limits.max_waiting_per_agent, retry_after_s)

    def _time_for(self, num_waiting: int, running: Collection[Call], now: float) -> float:
        """Return the seconds until that many calls, and the running ones, are done."""
        mean_s = self._estimates.run_s
        left_s = sum(max(0.0, mean_s - _elapsed_s(call, now)) for call in running)
        work_s = left_s + num_waiting * mean_s
        return max(_LEAST_S, work_s / max(1, len(running)))


def _elapsed_s(call: Call, now: float) -> float:
    return call.syscall.running_s + now - call.syscall.state_since
