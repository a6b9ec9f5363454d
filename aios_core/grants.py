"""The syscalls by which agents share: grant a right, or revoke it.

They are below the managers so that the handles of memory and storage can build
them (`agent.memory.share(...)`); `aios_core.access` serves them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from aios_core.errors import InvalidRequest
from aios_core.permissions import Access, Resource, Right
from aios_core.process import DEFAULT_GROUP
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

EVERYBODY: Final = "*"
GROUP: Final = "group:"  # "group:staff": the members of that group, and of those that inherit it


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights over a resource and everything below it, given to an agent or a group.

    Times are seconds since 1970. `granted_by` is an identity, or "policy" for grants
    of the policy file.
    """

    resource: Resource
    to: str  # an identity, "group:NAME" or "*"
    rights: frozenset[Right]
    granted_by: str
    granted_at: float = 0.0
    expires_at: float | None = None  # None: until it is revoked
    labels: frozenset[str] = frozenset()  # of the grantor, who may have copied the names

    def __str__(self) -> str:
        rights = "+".join(sorted(self.rights))
        return f"{rights} on {self.resource} to {self.to}, by {self.granted_by}"


@dataclass(frozen=True, slots=True)
class AccessGrant(Request[tuple[str, ...]]):
    """Grant rights over a resource and everything below it.

    Returns doubts about the grant, as texts: the resource or the receiver does not exist. The
    grant is made nevertheless.

    A grant on "/docs" includes "/docs/a.txt", and one on "" everything of that kind. It
    replaces an earlier grant of the same grantor to the same receiver. No agent can grant a
    right that it does not have itself.
    """

    kind: ClassVar[str] = "access.grant"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    resource: Resource
    to: str  # an identity, "group:NAME" or "*"
    rights: frozenset[Right] = frozenset({Right.READ})
    for_s: float | None = None  # None: until it is revoked

    def __post_init__(self) -> None:
        _require_resource(self.resource)
        _require_receiver(self.to)
        if self.to != EVERYBODY and not self.to.startswith(GROUP):
            group = (self.resource.owner or "").partition("/")[0]
            require_identity("to", self.to, group, or_else=", 'group:NAME' or '*'")
        object.__setattr__(self, "rights", _checked(self.rights))
        if self.for_s is not None and not (
            isinstance(self.for_s, int | float) and 0 < self.for_s < math.inf
        ):
            raise InvalidRequest(
                f"for_s: got {shown_repr(self.for_s)}; allowed: seconds above 0, or None"
            )

    def access(self, identity: str) -> Access:  # noqa: ARG002 - the resource names its owner
        """Share the resource. With all agents it is irreversible: what was read is known."""
        return Access(
            self.kind,
            Right.SHARE,
            self.resource,
            {"to": self.to, "rights": sorted(self.rights), "for_s": self.for_s},
            "what everybody has read, everybody knows" if self.to == EVERYBODY else None,
        )


@dataclass(frozen=True, slots=True)
class AccessRevoke(Request[None]):
    """Revoke the rights of a receiver over a resource and everything below it.

    Grants that the receiver could give only because of them are revoked too. Raises
    `NoSuchObject` if there is no such grant.
    """

    kind: ClassVar[str] = "access.revoke"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    resource: Resource
    to: str

    def __post_init__(self) -> None:
        _require_resource(self.resource)
        _require_receiver(self.to)

    def access(self, identity: str) -> Access:  # noqa: ARG002 - the resource names its owner
        """Share the resource, or stop sharing it."""
        return Access(self.kind, Right.SHARE, self.resource, {"to": self.to})


def _require_resource(resource: object) -> None:
    if not isinstance(resource, Resource) or not is_well_formed(resource):
        raise InvalidRequest(
            f"resource: got {shown_repr(resource)}; allowed: a Resource with a kind"
        )
    if resource.owner is None:
        raise InvalidRequest(
            f"{resource} has no owner who could share it; define in the policy file who may use it"
        )
    require_identity("resource", resource.owner)


def is_well_formed(resource: Resource) -> bool:
    """Return whether its parts are texts, and it has a kind."""
    parts = (resource.kind, resource.owner or "", resource.name)
    return all(type(part) is str for part in parts) and bool(resource.kind)


def _require_receiver(to: object) -> None:
    if not isinstance(to, str) or not to.removeprefix(GROUP):
        raise InvalidRequest(f"to: got {shown_repr(to)}; allowed: an identity, 'group:NAME' or '*'")


def require_identity(
    what: str, text: object, group: str = DEFAULT_GROUP, *, or_else: str = ""
) -> None:
    """Raise `InvalidRequest` unless a text can be an identity: "GROUP/NAME[/CHILD]"."""
    names = text.split("/") if isinstance(text, str) else []
    if len(names) > 1 and all(names):
        return
    meant = f"; did you mean '{group}/{text.strip('/')}'?" if isinstance(text, str) else ""
    raise InvalidRequest(f"{what}: got {shown_repr(text)}; allowed: an identity{or_else}{meant}")


class ShareWarning(UserWarning):
    """A grant names a resource or a receiver that does not exist."""


def warn_of(doubts: tuple[str, ...]) -> None:
    """Emit a warning for each doubt about a grant, at the caller's caller."""
    for doubt in doubts:
        warnings.warn(f"the grant may be a mistake: {doubt}", ShareWarning, stacklevel=3)


def _checked(rights: Iterable[Right]) -> frozenset[Right]:
    try:
        checked = frozenset(map(Right, (rights,) if isinstance(rights, str) else rights))
    except Exception:  # noqa: BLE001 - foreign objects may raise anything
        checked = frozenset()
    if not checked:
        raise InvalidRequest(
            f"rights: got {shown_repr(rights)}; allowed: some of {[*map(str, Right)]}"
        )
    return checked
