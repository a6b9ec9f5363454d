"""The access manager: serves the access syscalls, and keeps the policy file in force.

`Privileges` holds the policy and grants in force; `gate` checks every request against them.
Promises: a revoked right is refused from the next request on; no agent grants a right that it
does not have; a broken policy file changes nothing.

Belongs to the kernel's loop, which it never blocks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Unpack

from aios_core.access.approvals.approval import Approver
from aios_core.access.approvals.factory import build_approver
from aios_core.access.audit.model_calls import ModelCalls
from aios_core.access.audit.trail import AuditTrail
from aios_core.access.gate import Gate
from aios_core.access.policy.explain import AccessOptions, Explanation, explain, parse_access
from aios_core.access.policy.file import load_policy, require_acyclic
from aios_core.access.policy.grant_warnings import Census, doubts_about
from aios_core.access.policy.grant_writer import GrantWriter
from aios_core.access.policy.grants import rights_of
from aios_core.access.policy.privileges import Privileges
from aios_core.access.policy.rules import GroupRule, Policy
from aios_core.access.requests import AccessAsk, AccessCheck, AccessList
from aios_core.config import AccessConfig
from aios_core.errors import AccessDenied, ConfigError, InvalidRequest
from aios_core.events import EventStream
from aios_core.grants import AccessGrant, AccessRevoke, Grant, require_identity
from aios_core.labels import labels_of_all, with_all_labels, with_labels
from aios_core.permissions import Access, Right
from aios_core.process import AgentProcess
from aios_core.state import StateOpener
from aios_core.syscalls import Request
from aios_core.untrusted.arguments import require_items, require_text

log = logging.getLogger(__name__)

POLL_POLICY_S: Final = 2.0


class AccessManager:
    """Serves the access syscalls, and owns the policy, the grants and the audit trail.

    Args:
        config: the section `[access]`.
        state: where grants and the audit trail are kept.
        inherits: maps a group to the configured groups that it inherits.
        approver: asks people, instead of the configured one.
        events: of the kernel; with audit "all", outcomes of model calls are recorded from them.
        now: seconds since 1970, since grants and approvals outlive a kernel.
    """

    name = "access"
    requests: Sequence[type[Request[Any]]] = (
        AccessAsk,
        AccessCheck,
        AccessGrant,
        AccessList,
        AccessRevoke,
    )

    def __init__(
        self,
        config: AccessConfig,
        state: StateOpener,
        *,
        inherits: Mapping[str, Sequence[str]] | None = None,
        approver: Approver | None = None,
        events: EventStream | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._base = configured_policy(config, inherits or {})
        self._now = now
        self.census = Census()  # the kernel, which knows who and what there is, puts in its own
        self._file = None if config.policy is None else Path(config.policy).expanduser()
        self._stamp: object = None  # of the file that is in force
        self._watching: asyncio.Task[None] | None = None
        self.privileges = Privileges(self._base, now)
        self._store = GrantWriter(state, self.privileges)
        self.trail: AuditTrail | None = None
        self._unsubscribe: Callable[[], None] | None = None
        if config.audit != "off":
            anchor = None if config.audit_anchor is None else Path(config.audit_anchor).expanduser()
            self.trail = AuditTrail(
                state,
                now,
                keeps_arguments=config.audit_arguments,
                anchor=anchor,
                days=config.audit_days,
            )
            if config.audit == "all" and events is not None:
                self._unsubscribe = events.subscribe(ModelCalls(self.trail, now))
        self.gate = Gate(
            self.privileges,
            self._store,
            approver or build_approver(config.approver, state, now),
            self.trail,
            now=now,
            approval_timeout_s=config.approval_timeout_s,
            audits_models=config.audit == "all",
        )

    def __repr__(self) -> str:
        rules, grants = len(self.privileges.policy.rules), len(self.privileges.grants)
        return f"<AccessManager: {rules} rules, {grants} grants>"

    # --- lifecycle ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the policy file. Raises `ConfigError` if it is broken."""
        if self._file is not None:
            await self.reload()
            self._watching = asyncio.ensure_future(self._watch(self._file))

    async def reload(self) -> None:
        """Put the policy file in force. Raises `ConfigError` if it is broken; the old one stays."""
        if self._file is None:
            return
        stamp = await asyncio.to_thread(_stamp_of, self._file)
        policy = await asyncio.to_thread(load_policy, self._file, self._base)
        self._stamp = stamp
        self.privileges.replace_policy(policy)

    async def _watch(self, file: Path) -> None:
        refused: object = None
        while True:
            await asyncio.sleep(POLL_POLICY_S)
            stamp = await asyncio.to_thread(_stamp_of, file)
            if stamp in (self._stamp, refused):
                continue
            try:
                await self.reload()
                log.info("the policy in %s is in force", file)
            except ConfigError as exc:
                refused = stamp
                log.error("the policy was not changed: %s", exc)  # noqa: TRY400 - the message is complete

    def forget(self, process: AgentProcess) -> None:
        """Drop what is cached for an exited agent; its grants stay."""
        self.privileges.forget(process)

    async def close(self) -> None:
        """Complete the changes in flight, and write the rest of the audit trail."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._store.settled()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self.trail is not None:
            await self.trail.close()

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        self.privileges.check()

    # --- requests ----------------------------------------------------------------------------

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        """Serve a request that passed the gate."""
        match request:
            case AccessGrant():
                return await self._grant(process, request)
            case AccessRevoke():
                return await self._store.revoke(request.resource, request.to, process.identity)
            case AccessList():
                return await self._list(process)
            case AccessCheck():
                return await self._look(process, request)
            case AccessAsk():
                return None  # the gate has asked
            case _:
                raise InvalidRequest(f"the access manager serves no {type(request).__name__}")

    async def _grant(self, process: AgentProcess, request: AccessGrant) -> tuple[str, ...]:
        await self._store.load()
        privileges = self.privileges
        doubts = await doubts_about(request, self.census, privileges.policy, privileges.grants)
        giver, now = process.identity, self._now()
        until = now + request.for_s if request.for_s is not None else math.inf
        if giver != request.resource.owner:
            until = min(until, self._can_give_until(process, request))
        ends = None if until == math.inf else until
        rights = frozenset(request.rights)
        labels = frozenset(process.labels)
        await self._store.put(Grant(request.resource, request.to, rights, giver, now, ends, labels))
        return doubts

    def _can_give_until(self, process: AgentProcess, request: AccessGrant) -> float:
        """Return when the grantor's own rights end. Raises `AccessDenied` if it lacks one."""
        privileges, what = self.privileges, request.resource
        grants = privileges.grants.on(what)
        held = rights_of(
            privileges.subject(process), what, grants, privileges.policy, now=self._now()
        )
        if lacking := request.rights - held:
            rights = ", ".join(sorted(lacking))
            raise AccessDenied(
                process.pid,
                request.kind,
                str(what),
                f"it has no right to {rights} itself",
                agent=process.identity,
            )
        return min(
            privileges.resolution(process, Access(request.kind, right, what)).until
            for right in (*request.rights, Right.SHARE)
        )

    async def _list(self, process: AgentProcess) -> Any:
        await self._store.load()
        subject = self.privileges.subject(process)
        return with_all_labels(
            [
                grant
                for grant in self.privileges.grants
                if grant.resource.owner == process.identity or subject.matches(grant.to)
            ]
        )

    async def _look(self, process: AgentProcess, request: AccessCheck) -> Any:
        await self._store.load()
        decision, part = self.privileges.decide(process, request.wanted)
        quoted = self.privileges.grants.on(part.resource)
        return with_labels(decision, labels_of_all(quoted))

    async def explain(
        self, identity: str, access: Access, labels: frozenset[str] = frozenset()
    ) -> Explanation:
        """Explain whether an agent may do something, with all that was considered."""
        await self._store.load()
        policy = self.privileges.policy
        grants = self.privileges.grants.on(access.resource)
        subject = policy.subject_named(identity)
        return explain(subject, access, labels, policy, grants, now=self._now())


async def explain_in_words(
    manager: AccessManager,
    agent: str,
    action: str,
    resource: str,
    *,
    labels: Iterable[str] = (),
    **about: Unpack[AccessOptions],
) -> Explanation:
    """Explain the access given as text (`kind:owner:name`). Raises `InvalidRequest`."""
    identity = require_text("agent", agent)
    require_identity("agent", identity)
    marks = frozenset(require_text("labels", label) for label in require_items("labels", labels))
    return await manager.explain(identity, parse_access(action, resource, **about), marks)


def configured_policy(config: AccessConfig, inherits: Mapping[str, Sequence[str]]) -> Policy:
    """Build the policy of the configuration, to which the policy file adds.

    Raises `ConfigError` if a group inherits itself.
    """
    groups = {name: GroupRule(tuple(above)) for name, above in inherits.items()}
    require_acyclic(groups)
    return Policy(
        groups=groups,
        parent_rights=frozenset(map(Right, config.parent_rights)),
        unowned_rights=frozenset(map(Right, config.unowned_rights)),
        confirm_own_irreversible=config.confirm_own_irreversible,
    )


def _stamp_of(file: Path) -> object:
    """Return a value that changes when the file does; None if there is no file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
