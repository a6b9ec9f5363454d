"""Emit events about calls."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aios_core.budget import Cost
from aios_core.clock import Clock
from aios_core.core import Core
from aios_core.errors import KernelError
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.messages import Completion
from aios_core.scheduler.call import Call
from aios_core.syscalls import SyscallState


class CallEvents:
    """Emits events about calls. Costs nothing without observers."""

    def __init__(self, events: EventStream, clock: Clock) -> None:
        self._events = events
        self.observers = events.observers
        self._clock = clock

    def emit(self, kind: EventKind, call: Call, **facts: Any) -> None:
        """Emit an event about a call."""
        if self._events.observers:
            syscall = call.syscall
            self._events.emit(KernelEvent(self._clock.now(), kind, syscall.pid, syscall.id, facts))

    def ended(
        self,
        call: Call,
        outcome: SyscallState,
        completion: Completion | None,
        error: KernelError | None,
    ) -> None:
        """Emit how a call ended."""
        if self._events.observers:
            self.emit(EventKind[outcome.name], call, **_facts(completion, error))

    def cut(self, call: Call, completion: Completion) -> None:
        """Emit that the kernel ended an answer at a limit."""
        limit = call.allowance.end if call.allowance else None
        self.emit(EventKind.CUT, call, reason=completion.length_reason, limit=limit)

    def fault(self, call: Call, core: Core | None, fault: str) -> None:
        """Emit that figures of a core were rejected, if any were."""
        if fault:
            name = core.name if core is not None else None
            self.emit(EventKind.CLAIM_REJECTED, call, core=name, reason=fault)

    def unpaid(self, call: Call, cost: Cost) -> None:
        """Emit that a call used more than its budget could pay, if it did."""
        if cost.tokens or cost.money or cost.calls:
            reason = "the call used more than was reserved, and the budget has nothing left"
            self.emit(EventKind.OVERRUN, call, reason=reason, **asdict(cost))

    def policy_changed(self, name: str) -> None:
        """Emit that an adaptive policy selected another policy."""
        if self._events:
            now = self._clock.now()
            self._events.emit(KernelEvent(now, EventKind.POLICY_CHANGED, facts={"policy": name}))


def _facts(completion: Completion | None, error: KernelError | None) -> dict[str, Any]:
    if completion is None:
        return {"error": type(error).__name__, "reason": str(error)}
    usage = completion.usage
    facts: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.is_estimated:
        facts["is_estimated"] = True
    if completion.length_reason is not None:
        facts["length_reason"] = completion.length_reason
    return facts
