"""`agent.access`: share, look at what one may, ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aios_core.access.decision import Decision
from aios_core.access.explain import access_to, parse_resource
from aios_core.access.requests import AccessAsk, AccessCheck, AccessList
from aios_core.checking import reads_arguments
from aios_core.errors import InvalidRequest
from aios_core.grants import AccessGrant, AccessRevoke, Grant, is_well_formed, warn_of
from aios_core.manager import Port
from aios_core.permissions import Resource, Right
from aios_core.redaction import shown_repr

READ_ONLY = (Right.READ,)


@dataclass(frozen=True, slots=True)
class AccessHandle:
    """The access syscalls of one agent.

    A resource is a `Resource`, or a text: "memory:default/alice:notes", or
    "memory::notes" for what is the agent's own. All raise `AccessDenied`.
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
        """Give somebody rights over a resource and what is below it.

        `to` is an identity, "group:NAME" or "*"; `for_s` None: until it is revoked. Warns
        (`ShareWarning`) if the resource or the receiver does not exist.
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
        """The same on any event loop."""
        warn_of(await self._port.acall(self._grant(resource, to, rights, for_s)))

    def revoke(self, resource: Resource | str, to: str) -> None:
        """Take back what was granted over a resource and below. Raises `NoSuchObject`."""
        self._port.call(AccessRevoke(self._resource(resource), to))

    async def arevoke(self, resource: Resource | str, to: str) -> None:
        """The same on any event loop."""
        await self._port.acall(AccessRevoke(self._resource(resource), to))

    def grants(self) -> tuple[Grant, ...]:
        """The grants over what is the agent's own, and those to it."""
        return self._port.call(AccessList())

    async def agrants(self) -> tuple[Grant, ...]:
        """The same on any event loop."""
        return await self._port.acall(AccessList())

    def check(
        self, action: str, right: str, resource: Resource | str, **arguments: Any
    ) -> Decision:
        """Return whether the agent might do that, and why; nothing is done."""
        return self._port.call(self._check(action, right, resource, arguments))

    async def acheck(
        self, action: str, right: str, resource: Resource | str, **arguments: Any
    ) -> Decision:
        """The same on any event loop."""
        return await self._port.acall(self._check(action, right, resource, arguments))

    def ask(self, operation: str, *, timeout_s: float | None = None, **arguments: Any) -> None:
        """Ask a person for leave. Returns if it is given, else raises `ApprovalRefused`."""
        self._port.call(AccessAsk(operation, arguments), timeout_s=timeout_s)

    async def aask(
        self, operation: str, *, timeout_s: float | None = None, **arguments: Any
    ) -> None:
        """The same on any event loop."""
        await self._port.acall(AccessAsk(operation, arguments), timeout_s=timeout_s)

    def _grant(
        self, resource: Resource | str, to: str, rights: Iterable[str], for_s: float | None
    ) -> AccessGrant:
        wanted = (rights,) if isinstance(rights, str) else rights
        return AccessGrant(self._resource(resource), to, wanted, for_s)  # type: ignore[arg-type]

    def _check(
        self, action: str, right: str, resource: Resource | str, arguments: dict[str, Any]
    ) -> AccessCheck:
        what = self._resource(resource)
        return AccessCheck(access_to(action, str(what), right=right, arguments=arguments))

    @reads_arguments
    def _resource(self, resource: Resource | str) -> Resource:
        """A resource; one without an owner is the agent's own where only an agent can own it."""
        if isinstance(resource, str):
            resource = parse_resource(resource)
            if resource.owner is None and resource.kind not in ("tool", "model"):
                return Resource(resource.kind, self._port.identity, resource.name)
        if not isinstance(resource, Resource) or not is_well_formed(resource):
            allowed = "'kind:owner:name', or a Resource with texts"
            raise InvalidRequest(f"resource: got {shown_repr(resource)}; allowed: {allowed}")
        return resource
