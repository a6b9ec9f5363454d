"""The syscalls of the access manager (paper: check_access, ask_permission).

Those by which agents share are in `aios_core.grants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aios_core.access.policy.decision import Decision
from aios_core.errors import InvalidRequest
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

PRIVILEGES = "privileges"  # the kind of resource that an agent's own rights are


@dataclass(frozen=True, slots=True)
class AccessCheck(Request[Decision]):
    """Ask whether the agent may do something. Nothing is done, and no person is asked."""

    kind: ClassVar[str] = "access.check"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    wanted: Access

    def __post_init__(self) -> None:
        if not isinstance(self.wanted, Access):
            raise InvalidRequest(f"wanted: got {shown_repr(self.wanted)}; allowed: an Access")

    def access(self, identity: str) -> Access:
        """Reading its own rights."""
        return Access(self.kind, Right.READ, Resource(PRIVILEGES, identity))


@dataclass(frozen=True, slots=True)
class AccessAsk(Request[None]):
    """Ask a person for permission to do something other than a syscall."""

    kind: ClassVar[str] = "access.ask"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    operation: str  # described for the person
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise InvalidRequest(f"arguments: got {shown_repr(self.arguments)}; allowed: a mapping")
        if not isinstance(self.operation, str) or not self.operation.strip():
            raise InvalidRequest(
                f"operation: got {shown_repr(self.operation)}; allowed: a text, not empty"
            )

    def access(self, identity: str) -> Access:
        """Return the access: something that only a person can allow."""
        what = Resource("operation", identity, self.operation)
        why = "the agent itself asks for permission"
        return Access(self.kind, Right.EXECUTE, what, self.arguments, why)


@dataclass(frozen=True, slots=True)
class AccessList(Request[tuple[Grant, ...]]):
    """List the grants over the agent's own resources, and the grants to the agent."""

    kind: ClassVar[str] = "access.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """Reading its own rights."""
        return Access(self.kind, Right.READ, Resource(PRIVILEGES, identity))
