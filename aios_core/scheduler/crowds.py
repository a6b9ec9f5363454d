"""How many calls may wait, and when there may be room again."""

from __future__ import annotations

from typing import Final

from aios_core.errors import Overloaded
from aios_core.process import AgentProcess
from aios_core.scheduler.limits import Limits

_SMOOTHING: Final = 0.05  # the share of the newest answer in the rate
_RETRY_AFTER_S: Final = (0.05, 60.0)  # at least, at most


class Crowds:
    """Refuses calls when too many wait. Pure; it sees time as it is told."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rate = 10.0  # calls answered per second, smoothed
        self._last_answer: float | None = None

    def refuse(self, process: AgentProcess, num_waiting: int) -> None:
        """Raise `Overloaded` if too many calls wait, of the agent or of all."""
        limits = self._limits
        if num_waiting >= limits.max_waiting:
            least, most = _RETRY_AFTER_S
            retry_after_s = max(least, 0.1 * num_waiting / max(self._rate, 1e-3))
            raise Overloaded("the kernel's queue", limits.max_waiting, min(retry_after_s, most))
        if len(process.live_calls) >= limits.max_waiting_per_agent:
            queue = f"the queue of agent {process.name!r}"
            raise Overloaded(queue, limits.max_waiting_per_agent, 1.0)

    def answered(self, now: float) -> None:
        """One call less waits."""
        if self._last_answer is not None and now > self._last_answer:
            rate = 1 / (now - self._last_answer)
            self._rate += _SMOOTHING * (min(rate, 1e5) - self._rate)
        self._last_answer = now
