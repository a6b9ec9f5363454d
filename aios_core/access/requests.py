"""The syscalls of the access manager (paper: check_access, ask_permission).

Those by which agents share are in `aios_core.grants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aios_core.access.decision import Decision
from aios_core.errors import InvalidRequest
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

PRIVILEGES = "privileges"  # the kind of resource that an agent's own rights are


@dataclass(frozen=True, slots=True)
class AccessCheck(Request[Decision]):
    """Whether the agent might do something; it is not done, and nobody is asked."""

    kind: ClassVar[str] = "access.check"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    wanted: Access

    def __post_init__(self) -> None:
        if not isinstance(self.wanted, Access):
            raise InvalidRequest(f"wanted: got {shown_repr(self.wanted)}; allowed: an Access")

    def access(self, identity: str) -> Access:
        """To look at one's own rights."""
        return Access(self.kind, Right.READ, Resource(PRIVILEGES, identity))


@dataclass(frozen=True, slots=True)
class AccessAsk(Request[None]):
    """Ask a person for leave to do something that is no syscall. Raises `ApprovalRefused`."""

    kind: ClassVar[str] = "access.ask"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    operation: str  # in words
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise InvalidRequest(f"arguments: got {shown_repr(self.arguments)}; allowed: a mapping")
        if not isinstance(self.operation, str) or not self.operation.strip():
            raise InvalidRequest(
                f"operation: got {shown_repr(self.operation)}; allowed: a text, not empty"
            )

    def access(self, identity: str) -> Access:
        """To do what only a person can allow."""
        what = Resource("operation", identity, self.operation)
        why = "the agent itself asks for leave"
        return Access(self.kind, Right.EXECUTE, what, self.arguments, why)


@dataclass(frozen=True, slots=True)
class AccessList(Request[tuple[Grant, ...]]):
    """The grants over what is the agent's own, and those to it."""

    kind: ClassVar[str] = "access.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """To look at one's own rights."""
        return Access(self.kind, Right.READ, Resource(PRIVILEGES, identity))
