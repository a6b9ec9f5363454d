"""Which approver is meant by `access.approver`.

auto       the terminal, if somebody sits at one; else the pending list, if the state
           directory is on disk; else refused at once, with how to be asked
terminal   a question on the terminal
pending    the pending list, `aios approvals`
allow      whatever waits for an approval has it (and the audit trail says so)
deny       nothing has it
"""

from __future__ import annotations

from collections.abc import Callable

from aios_core.access.approval import ApprovalAnswer, ApprovalRequest, Approver, FixedApprover
from aios_core.access.mailbox import Mailbox
from aios_core.access.pending import PendingApprover
from aios_core.access.terminal import TerminalApprover
from aios_core.state import StateOpener

HOW = (
    "nobody can be asked; give Kernel(approver=...) a function, or set access.approver to "
    "'terminal', to 'pending' (with a state.directory on disk), or, if nothing needs to be asked, "
    "to 'allow'"
)


class ListApprover:
    """The pending list of a state directory, opened when somebody is asked first."""

    def __init__(self, state: StateOpener, now: Callable[[], float]) -> None:
        self._state = state
        self._now = now
        self._pending: PendingApprover | None = None

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        state = await self._state.opened()
        if state.directory is None:
            return ApprovalAnswer(False, reason=HOW)
        if self._pending is None:
            self._pending = PendingApprover(Mailbox(state.directory, state.vault), self._now)
        return await self._pending.ask(request)


class AutoApprover:
    """The terminal if there is one, else `otherwise`."""

    def __init__(self, otherwise: Approver) -> None:
        self._terminal = TerminalApprover()
        self._otherwise = otherwise

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        chosen = self._terminal if self._terminal.is_possible() else self._otherwise
        return await chosen.ask(request)


def approver_of(setting: str, state: StateOpener, now: Callable[[], float]) -> Approver:
    """The approver that a setting of `access.approver` means."""
    if setting == "terminal":
        return TerminalApprover()
    if setting in ("allow", "deny"):
        is_approved = setting == "allow"
        reason = "" if is_approved else "access.approver is 'deny'"
        return FixedApprover(ApprovalAnswer(is_approved, "access.approver", reason))
    pending = ListApprover(state, now)
    return pending if setting == "pending" else AutoApprover(pending)
