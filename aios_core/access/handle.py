"""`agent.access`: share resources, check access, and ask for approvals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aios_core.access.policy.decision import Decision
from aios_core.access.policy.explain import parse_access, parse_resource
from aios_core.access.requests import AccessAsk, AccessCheck, AccessList
from aios_core.errors import InvalidRequest
from aios_core.grants import AccessGrant, AccessRevoke, Grant, is_well_formed, warn_of
from aios_core.manager import Port
from aios_core.permissions import Resource, Right
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import is_a, reads_arguments

READ_ONLY = (Right.READ,)


@dataclass(frozen=True, slots=True)
class AccessHandle:
    """The access syscalls of one agent.

    A resource is a `Resource`, or a text: "memory:default/alice:notes", or
    "memory::notes" for the agent's own. Every method may raise `AccessDenied`.
    """

    _port: Port

    def grant(
        self,
        resource: Resource | str,
        to: str,
        rights: Iterable[str] = READ_ONLY,
        *,
        for_s: float | None = None,
    ) -> None:
        """Grant rights over a resource and everything below it.

        Warns (`ShareWarning`) if the resource or the receiver does not exist.

        Args:
            resource: what is shared.
            to: an identity, "group:NAME", or "*" for all agents.
            rights: "read", "write", "execute", "share".
            for_s: seconds until the grant expires; None: until it is revoked.
        """
        warn_of(self._port.call(self._grant(resource, to, rights, for_s)))

    async def agrant(
        self,
        resource: Resource | str,
        to: str,
        rights: Iterable[str] = READ_ONLY,
        *,
        for_s: float | None = None,
    ) -> None:
        """Grant rights without blocking the event loop (async form of `grant`)."""
        warn_of(await self._port.acall(self._grant(resource, to, rights, for_s)))

    def revoke(self, resource: Resource | str, to: str) -> None:
        """Revoke grants over a resource and everything below it. Raises `NoSuchObject`."""
        self._port.call(AccessRevoke(self._resource(resource), to))

    async def arevoke(self, resource: Resource | str, to: str) -> None:
        """Revoke grants without blocking the event loop (async form of `revoke`)."""
        await self._port.acall(AccessRevoke(self._resource(resource), to))

    def grants(self) -> tuple[Grant, ...]:
        """List the grants over the agent's own resources, and those to the agent."""
        return self._port.call(AccessList())

    async def agrants(self) -> tuple[Grant, ...]:
        """List grants without blocking the event loop (async form of `grants`)."""
        return await self._port.acall(AccessList())

    def check(
        self, action: str, right: str, resource: Resource | str, **arguments: Any
    ) -> Decision:
        """Return whether the agent may do an action, and why. Nothing is done."""
        return self._port.call(self._check(action, right, resource, arguments))

    async def acheck(
        self, action: str, right: str, resource: Resource | str, **arguments: Any
    ) -> Decision:
        """Check access without blocking the event loop (async form of `check`)."""
        return await self._port.acall(self._check(action, right, resource, arguments))

    def ask(self, operation: str, *, timeout_s: float | None = None, **arguments: Any) -> None:
        """Ask a person for permission. Returns if it is given, else raises `ApprovalRefused`."""
        self._port.call(AccessAsk(operation, arguments), timeout_s=timeout_s)

    async def aask(
        self, operation: str, *, timeout_s: float | None = None, **arguments: Any
    ) -> None:
        """Ask for permission without blocking the event loop (async form of `ask`)."""
        await self._port.acall(AccessAsk(operation, arguments), timeout_s=timeout_s)

    def _grant(
        self, resource: Resource | str, to: str, rights: Iterable[str], for_s: float | None
    ) -> AccessGrant:
        wanted = (rights,) if is_a(rights, str) else rights
        return AccessGrant(self._resource(resource), to, wanted, for_s)  # type: ignore[arg-type]

    def _check(
        self, action: str, right: str, resource: Resource | str, arguments: dict[str, Any]
    ) -> AccessCheck:
        what = self._resource(resource)
        return AccessCheck(parse_access(action, str(what), right=right, arguments=arguments))

    @reads_arguments
    def _resource(self, resource: Resource | str) -> Resource:
        """Parse a resource. Without an owner it is the agent's own, if its kind has owners."""
        if isinstance(resource, str):
            resource = parse_resource(resource)
            if resource.owner is None and resource.kind not in ("tool", "model"):
                return Resource(resource.kind, self._port.identity, resource.name)
        if not isinstance(resource, Resource) or not is_well_formed(resource):
            allowed = "'kind:owner:name', or a Resource with texts"
            raise InvalidRequest(f"resource: got {shown_repr(resource)}; allowed: {allowed}")
        return resource
