"""Decide when a failing tool rests. Pure: time is an argument.

    closed ──(failures in a row)──> open ──(cooldown_s)──> half open ──success──> closed
                                      ^                        │
                                      └────────failure─────────┘   (twice the time, up to a bound)

A circuit breaker (Nygard, "Release It!") at two levels: one for each agent, and one
for all. An agent that fails alone, probably because of its own arguments, is refused
alone. Failures of several agents are attributed to the tool, and all agents are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_LONGEST: Final = 16  # times the first cooldown; doubling without a bound would never end


@dataclass(slots=True)
class _Circuit:
    """The circuit of one agent, or of all agents together."""

    num_failures: int = 0  # in a row
    agents: set[int] = field(default_factory=set)  # the agents that saw them
    open_until: float | None = None  # None: closed
    cooldown_s: float = 0.0
    tried_by: int | None = None  # half open: the id of the call that decides by its outcome

    def refused_for(self, now: float) -> float:
        """Return the seconds until a call is allowed; 0 for now."""
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


class CircuitBreaker:
    """The circuits of one tool. With `max_failures=0` they never open."""

    def __init__(self, max_failures: int, cooldown_s: float) -> None:
        self._max_failures = max_failures
        self._cooldown_s = cooldown_s
        self._shared = _Circuit()
        self._own: dict[int, _Circuit] = {}  # by pid; only of agents that saw a failure

    def refused_for(self, pid: int, now: float) -> float:
        """Return for how many seconds calls of this agent are refused; 0 if they are allowed."""
        return max(circuit.refused_for(now) for circuit in self._circuits(pid))

    def begin(self, pid: int, call: int) -> None:
        """Record that a call was allowed. On a half-open circuit its outcome decides."""
        for circuit in self._circuits(pid):
            if circuit.open_until is not None and circuit.tried_by is None:
                circuit.tried_by = call

    def withdraw(self, pid: int, call: int) -> None:
        """Record that a call ended without a verdict, so that another one may try."""
        for circuit in self._circuits(pid):
            if circuit.tried_by == call:
                circuit.tried_by = None

    def succeed(self, pid: int) -> None:
        """Record a success: close the circuits."""
        self._shared.close()
        self._own.pop(pid, None)

    def fail(self, pid: int, now: float) -> bool:
        """Record a failure. Returns whether waiting calls have to be refused now."""
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
        """Drop the circuit of an exited agent."""
        self._own.pop(pid, None)

    def _circuits(self, pid: int) -> tuple[_Circuit, ...]:
        own = self._own.get(pid)
        return (self._shared,) if own is None else (self._shared, own)
