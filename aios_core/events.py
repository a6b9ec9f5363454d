"""Events of the kernel: a stream of small facts.

Observers are callables; they are called on the kernel's loop, in order, and must
return at once (hand the event to a queue if there is more to do). An observer
that raises is dropped with a logged traceback; the kernel continues.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any

from aios_core.redaction import redact_values
from aios_core.untrusted.third_party import RAISED, log_raised, name_of, pass_on

log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """The kinds of events that observers receive."""

    AGENT_SPAWNED = "agent.spawned"
    AGENT_FROZEN = "agent.frozen"
    AGENT_THAWED = "agent.thawed"
    AGENT_EXITED = "agent.exited"
    SUBMITTED = "call.submitted"
    REFUSED = "call.refused"
    DISPATCHED = "call.dispatched"
    PREEMPTED = "call.preempted"
    RETRIED = "call.retried"
    SWAPPED = "call.swapped"  # a KV image changed its tier
    WAITING_FOR_BUDGET = "call.waiting_for_budget"  # until calls in flight have settled
    CUT = "call.cut"  # the kernel ended an answer at its limit
    CLAIM_REJECTED = "core.claim_rejected"  # a backend's impossible figures
    OVERRUN = "call.overrun"  # a backend used more than a budget had
    DONE = "call.done"
    FAILED = "call.failed"
    CANCELLED = "call.cancelled"
    CORE_STARTING = "core.starting"  # loading a model takes minutes
    CORE_UP = "core.up"
    CORE_DOWN = "core.down"
    CORE_DRAINING = "core.draining"  # it takes no further calls
    CORE_REMOVED = "core.removed"
    POLICY_CHANGED = "scheduler.policy_changed"


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One event of the kernel: its kind, its time, the agent and syscall, and further facts.

    `at` is in seconds of the kernel's clock, `clock_time` in seconds since 1970 (set when the event
    is emitted); `facts` holds plain values.
    """

    at: float
    kind: EventKind
    pid: int | None = None
    syscall_id: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    clock_time: float | None = None

    def __str__(self) -> str:
        who = f" agent {self.pid}" if self.pid is not None else ""
        what = f" syscall {self.syscall_id}" if self.syscall_id is not None else ""
        facts = "".join(f" {key}={value}" for key, value in self.facts.items())
        return f"{self.at:10.4f}{who}{what} {self.kind}{facts}"


Observer = Callable[[KernelEvent], None]


class EventStream:
    """Hands events to observers."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)

    def __bool__(self) -> bool:
        """Return whether anybody listens; who emits may skip building the event if not."""
        return bool(self.observers)

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Add an observer. Returns a function that removes it again."""
        self.observers.append(observer)
        return lambda: self._drop(observer)

    def emit(self, event: KernelEvent) -> None:
        """Notify every observer, with secrets removed from the facts."""
        if not self.observers:
            return
        facts = redact_values(event.facts) if event.facts else event.facts
        event = replace(event, facts=facts, clock_time=time.time())
        for observer in tuple(self.observers):
            try:
                observer(event)
            except RAISED as exc:
                pass_on(exc)
                log_raised(log, exc, "observer %s raised and was dropped", name_of(observer))
                self._drop(observer)

    def _drop(self, observer: Observer) -> None:
        if observer in self.observers:
            self.observers.remove(observer)


class EventLog:
    """An observer that keeps the latest events, to print the history of a call or an agent.

    >>> log = EventLog(keep=1000)
    >>> log(KernelEvent(0.5, EventKind.SUBMITTED, pid=1, syscall_id=7))
    >>> print(log.format(syscall_id=7))
    +0.500 s     agent 1 syscall 7 submitted
    """

    def __init__(self, keep: int = 100_000) -> None:
        self._events: deque[KernelEvent] = deque(maxlen=keep)
        self._names: dict[int, str] = {}  # by pid, of agents with a recorded start

    def __call__(self, event: KernelEvent) -> None:
        if event.kind is EventKind.AGENT_SPAWNED and event.pid is not None:
            self._names[event.pid] = str(event.facts.get("name", ""))
        self._events.append(event)

    def __len__(self) -> int:
        return len(self._events)

    def events(self, *, pid: int | None = None, syscall_id: int | None = None) -> list[KernelEvent]:
        """Return the kept events, the oldest first; only those of an agent or syscall if given."""
        return [
            event
            for event in tuple(self._events)
            if (pid is None or event.pid == pid)
            and (syscall_id is None or event.syscall_id == syscall_id)
        ]

    def format(self, *, pid: int | None = None, syscall_id: int | None = None) -> str:
        """Return the kept events as text, one per line; only those of an agent or syscall if given.

        A line has the local time of day (where it is not known: the seconds of the kernel's clock),
        the agent's name and pid, the syscall, and what happened.
        """
        return "\n".join(map(self._line, self.events(pid=pid, syscall_id=syscall_id)))

    def _line(self, event: KernelEvent) -> str:
        name = self._names.get(event.pid, "") if event.pid is not None else ""
        who = f" {name or 'agent'} {event.pid}" if event.pid is not None else ""
        what = f" syscall {event.syscall_id}" if event.syscall_id is not None else ""
        facts = "".join(f" {key}={_shown(value)}" for key, value in event.facts.items())
        return f"{_time_of(event):12}{who}{what} {event.kind}{facts}"


def _shown(value: object) -> object:
    """Round a number for people, to a millisecond or to three significant digits."""
    if not isinstance(value, float) or not isfinite(value):
        return value
    return f"{value:.3f}" if abs(value) >= 1 else f"{value:.3g}"


def _time_of(event: KernelEvent) -> str:
    """The local time of day to the millisecond, or seconds from the start of the kernel's clock."""
    if event.clock_time is None:
        return f"+{event.at:.3f} s"
    when = datetime.fromtimestamp(event.clock_time).astimezone()
    return when.strftime("%H:%M:%S.") + f"{when.microsecond // 1000:03}"
