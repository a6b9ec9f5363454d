"""Build the approver that `access.approver` names.

auto       the terminal, if a person can answer there; else the approval queue, if the state
           directory is on disk; else refuse at once, with how to enable approvals
terminal   ask on the terminal
queue      the approval queue, `aios approvals`
allow      approve every request (and record that in the audit trail)
deny       refuse every request
"""

from __future__ import annotations

from collections.abc import Callable

from aios_core.access.approvals.approval import (
    ApprovalAnswer,
    ApprovalRequest,
    Approver,
    FixedApprover,
)
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.access.approvals.queue import QueueApprover
from aios_core.access.approvals.terminal import TerminalApprover
from aios_core.state import StateOpener

HOW = (
    "no one can be asked; give Kernel(approver=...) a function, or set access.approver to "
    "'terminal', to 'queue' (with a state.directory on disk), or, if nothing needs to be asked, "
    "to 'allow'"
)


class LazyQueueApprover:
    """The approval queue of a state directory, opened at the first request."""

    def __init__(self, state: StateOpener, now: Callable[[], float]) -> None:
        self._state = state
        self._now = now
        self._queue: QueueApprover | None = None

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        state = await self._state.open()
        if state.directory is None:
            return ApprovalAnswer(False, reason=HOW)
        if self._queue is None:
            self._queue = QueueApprover(ApprovalFiles(state.directory, state.cipher), self._now)
        return await self._queue.ask(request)


class AutoApprover:
    """Asks at the terminal if there is one, else through `otherwise`."""

    def __init__(self, otherwise: Approver) -> None:
        self._terminal = TerminalApprover()
        self._otherwise = otherwise

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        chosen = self._terminal if self._terminal.is_possible() else self._otherwise
        return await chosen.ask(request)


def build_approver(setting: str, state: StateOpener, now: Callable[[], float]) -> Approver:
    """Build the approver for a value of `access.approver`."""
    if setting == "terminal":
        return TerminalApprover()
    if setting in ("allow", "deny"):
        is_approved = setting == "allow"
        reason = "" if is_approved else "access.approver is 'deny'"
        return FixedApprover(ApprovalAnswer(is_approved, "access.approver", reason))
    queue = LazyQueueApprover(state, now)
    return queue if setting == "queue" else AutoApprover(queue)
