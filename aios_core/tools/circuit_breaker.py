"""Rest a tool that keeps failing. Pure: time is given.

    closed ──(failures in a row)──> open ──(cooldown_s)──> half open ──success──> closed
                                      ^                        │
                                      └────────failure─────────┘   (twice the time, up to a bound)

A circuit breaker (Nygard, "Release It!") at two levels: one for each agent, and one
for all. An agent that fails alone, with arguments of its own making, is alone
refused; failures of several agents are the tool's, and it is left alone by all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_LONGEST: Final = 16  # times the first cooldown


@dataclass(slots=True)
class _Circuit:
    """One level."""

    num_failures: int = 0  # in a row
    agents: set[int] = field(default_factory=set)  # who saw them
    open_until: float | None = None  # None: closed
    cooldown_s: float = 0.0
    tried_by: int | None = None  # half open: the call whose outcome decides

    def refused_for(self, now: float) -> float:
        """Seconds until a call is let through; 0: now."""
        if self.open_until is None:
            return 0.0
        if self.tried_by is not None:
            return self.cooldown_s
        return max(0.0, self.open_until - now)

    def close(self) -> None:
        self.num_failures, self.open_until, self.tried_by = 0, None, None
        self.agents.clear()

    def open(self, now: float, first_s: float) -> None:
        again = self.open_until is not None
        self.cooldown_s = min(2 * self.cooldown_s, _LONGEST * first_s) if again else first_s
        self.open_until, self.tried_by = now + self.cooldown_s, None


class Breaker:
    """The circuits of one tool. `max_failures` 0: never opens."""

    def __init__(self, max_failures: int, cooldown_s: float) -> None:
        self._max_failures = max_failures
        self._cooldown_s = cooldown_s
        self._shared = _Circuit()
        self._own: dict[int, _Circuit] = {}  # by pid; only of agents that saw a failure

    def refused_for(self, pid: int, now: float) -> float:
        """Seconds for which calls of this agent are refused; 0: they are let through."""
        return max(circuit.refused_for(now) for circuit in self._circuits(pid))

    def admit(self, pid: int, call: int) -> None:
        """A call was let through. On a half-open circuit its outcome decides."""
        for circuit in self._circuits(pid):
            if circuit.open_until is not None and circuit.tried_by is None:
                circuit.tried_by = call

    def withdraw(self, pid: int, call: int) -> None:
        """A call ended without a verdict: another one may try."""
        for circuit in self._circuits(pid):
            if circuit.tried_by == call:
                circuit.tried_by = None

    def succeed(self, pid: int) -> None:
        """A call ended well."""
        self._shared.close()
        self._own.pop(pid, None)

    def fail(self, pid: int, now: float) -> bool:
        """A call failed. True if calls that wait are to be refused now."""
        if not self._max_failures:
            return False
        own = self._own.setdefault(pid, _Circuit())
        opened = False
        for circuit, num_agents in ((own, 1), (self._shared, 2)):
            circuit.num_failures += 1
            circuit.agents.add(pid)
            is_over = circuit.num_failures >= self._max_failures
            if circuit.open_until is not None or (is_over and len(circuit.agents) >= num_agents):
                circuit.open(now, self._cooldown_s)
                opened = True
        return opened

    def forget(self, pid: int) -> None:
        """An agent exited."""
        self._own.pop(pid, None)

    def _circuits(self, pid: int) -> tuple[_Circuit, ...]:
        own = self._own.get(pid)
        return (self._shared,) if own is None else (self._shared, own)
