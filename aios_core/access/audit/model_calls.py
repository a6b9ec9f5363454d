"""Record the outcomes of model calls in the audit trail, from the kernel's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aios_core.access.audit.record import AuditRecord
from aios_core.access.audit.trail import AuditTrail
from aios_core.events import EventKind, KernelEvent

ENDS: Final = frozenset({EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED, EventKind.REFUSED})


class ModelCalls:
    """An event observer that audits the outcome of each model call."""

    def __init__(self, trail: AuditTrail, now: Callable[[], float]) -> None:
        self._trail = trail
        self._now = now
        self._agents: dict[int, str] = {}  # pid -> its identity
        self._in_flight: set[int] = set()  # ids of model calls

    def __call__(self, event: KernelEvent) -> None:
        pid, call = event.pid or 0, event.syscall_id or 0
        if event.kind is EventKind.AGENT_SPAWNED:
            self._agents[pid] = str(event.facts.get("identity", event.facts.get("name", "")))
        elif event.kind is EventKind.AGENT_EXITED:
            self._agents.pop(pid, None)
        elif event.kind is EventKind.SUBMITTED and "request" not in event.facts:
            self._in_flight.add(call)
        elif event.kind in ENDS and call in self._in_flight:
            self._in_flight.discard(call)
            facts: dict[str, Any] = {"action": "llm.generate", "syscall": call}
            if "error" in event.facts:
                facts["error"] = str(event.facts["error"])
            agent = self._agents.get(pid, "")
            outcome = event.kind.name.lower()
            self._trail.add(AuditRecord(self._now(), outcome, pid, agent, None, "", facts))
