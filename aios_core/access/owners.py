"""The least policy: everybody has what is their own, and what is nobody's; nothing else."""

from __future__ import annotations

from aios_core.errors import AccessDenied
from aios_core.permissions import Access
from aios_core.process import AgentProcess


class OwnersOnly:
    """A `Gatekeeper` without grants, groups, approvals or audit."""

    def check(self, process: AgentProcess, access: Access) -> None:
        """Raise `AccessDenied` for what belongs to another agent."""
        if access.resource.owner not in (None, process.identity):
            raise AccessDenied(process.pid, access.action, str(access.resource))

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Keeps no books."""
