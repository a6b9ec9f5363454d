"""Check every request against the access policy: the kernel's `Gatekeeper`.

    check ──> allowed                        (cached: one dictionary lookup)
          ──> denied                         AccessDenied, with the reason
          ──> asked ──> approved ──> checked once more
                    ──> refused              ApprovalRefused

Promises: an approval is for exactly one request, once. Nothing that is audited is done
before the audit trail is known to work. While the trail cannot be written, no tool runs and
nothing outside the state directory is changed. A request that needed an approval, or that
changes something outside, is served only after its record is durable. (A change in the
state directory is durable together with its record.) Belongs to the kernel's loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from aios_core.access.approvals.approval import (
    ApprovalAnswer,
    ApprovalRequest,
    Approver,
    digest_of,
    to_plain_json,
)
from aios_core.access.audit.record import AuditRecord
from aios_core.access.audit.trail import AuditTrail
from aios_core.access.policy.decision import Decision
from aios_core.access.policy.grant_writer import GrantWriter
from aios_core.access.policy.privileges import MODEL, Privileges
from aios_core.access.policy.rules import Effect
from aios_core.errors import AccessDenied, ApprovalRefused
from aios_core.permissions import Access, Right
from aios_core.process import AgentProcess
from aios_core.untrusted.third_party import OF_THE_LOOP, RAISED, describe, pass_on

_ASKED: Final = "waiting for an approval"
_FLUSHED: Final = "waiting for the audit trail to be written"


@dataclass(slots=True, eq=False)
class _Waiting(Awaitable[None]):
    """Work that the kernel awaits before it serves a request. It starts when it is awaited."""

    doing: str  # for people; it may change in the meantime
    begin: Callable[[_Waiting], Awaitable[None]]

    def __await__(self) -> Generator[Any, None, None]:
        return self.begin(self).__await__()


class Gate:
    """The check that every request passes.

    Args:
        privileges: decides.
        store: holds the grants.
        approver: asks a person.
        trail: records decisions and outcomes; None: nothing is audited.
        now: returns seconds since 1970.
        approval_timeout_s: seconds to wait for an approval.
        audits_models: whether calls of models are recorded too.
    """

    def __init__(
        self,
        privileges: Privileges,
        store: GrantWriter,
        approver: Approver,
        trail: AuditTrail | None,
        *,
        now: Callable[[], float],
        approval_timeout_s: float,
        audits_models: bool = False,
    ) -> None:
        self._privileges = privileges
        self._store = store
        self._approver = approver
        self._trail = trail
        self._now = now
        self._approval_timeout_s = approval_timeout_s
        self._audits_models = audits_models

    def authorize(self, process: AgentProcess, access: Access) -> _Waiting | None:
        """Check a request. Returns None, or what to await before serving it.

        Raises:
            AccessDenied: a rule denies it, or nothing grants it.
            StateError: the audit trail cannot be written.
        """
        is_model = access.resource.kind == MODEL
        if (
            is_model
            and not self._audits_models
            and access.irreversible is None
            and not access.also
            and self._may_ask(process, access)
        ):
            return None  # the path of nearly every model call
        trail = self._trail if not is_model or self._audits_models else None
        if trail is not None:
            if not trail.is_ready:
                after = partial(self._check_after, trail.ready, process, access)
                return _Waiting("waiting for the audit trail to be opened", after)
            trail.require_room()
            if access.right is Right.EXECUTE or _changes_outside(access):
                trail.require_working()
        if not self._store.is_loaded and _is_about_others(process, access):
            after = partial(self._check_after, self._store.load, process, access)
            return _Waiting("waiting for the grants to be read", after)
        decision, part = self._privileges.decide(process, access)
        if decision.effect is Effect.ASK:
            return _Waiting(_ASKED, partial(self._ask, process, access, decision))
        self._conclude(process, access, decision, part)
        if trail is not None and _changes_outside(access):
            return _Waiting(_FLUSHED, lambda _: trail.flushed())
        return None

    def _may_ask(self, process: AgentProcess, access: Access) -> bool:
        """Return whether the agent may call a model, with any arguments."""
        known = self._privileges.free_models.get(process.pid, ())
        if (access.action, access.right, access.resource.name) in known:
            return access.resource.owner is None
        return self._privileges.resolution(process, access).is_unconditional

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Record the outcome of a request that was allowed."""
        self.note(process, access, outcome)

    def note(self, process: AgentProcess, access: Access, event: str, why: str = "") -> None:
        """Add a record to the audit trail."""
        if self._trail is not None:
            self._trail.add(
                AuditRecord(self._now(), event, process.pid, process.identity, access, why)
            )

    # --- inside ------------------------------------------------------------------------------

    async def _check_after(
        self,
        prepare: Callable[[], Awaitable[None]],
        process: AgentProcess,
        access: Access,
        waiting: _Waiting,
    ) -> None:
        await prepare()
        then = self.authorize(process, access)
        if then is not None:
            waiting.doing = then.doing
            await then.begin(waiting)

    def _conclude(
        self, process: AgentProcess, access: Access, decision: Decision, part: Access
    ) -> None:
        """Record the decision, and raise `AccessDenied` if it is a denial."""
        if decision.effect is Effect.DENY:
            self.note(process, access, "denied", decision.why)
            raise AccessDenied(
                process.pid, part.action, str(part.resource), decision.why, agent=process.identity
            )
        if access.resource.kind != MODEL or self._audits_models:
            self.note(process, access, "allowed", decision.why)

    async def _ask(
        self, process: AgentProcess, access: Access, decision: Decision, waiting: _Waiting
    ) -> None:
        """Wait for an approval; then decide again, since rules and grants may have changed."""
        request = self._request(process, access, decision)
        self.note(process, access, "asked", decision.why)
        try:
            async with asyncio.timeout(self._approval_timeout_s):
                answer = await self._approver.ask(request)
        except TimeoutError:
            reason = f"no one answered within {self._approval_timeout_s:g} s"
            self._refuse(process, access, ApprovalAnswer(False, reason=reason))
        except OF_THE_LOOP:
            self.note(process, access, "withdrawn", "the request was cancelled")
            raise
        except RAISED as exc:  # an approver that raises has not approved
            pass_on(exc)
            self._refuse(
                process, access, ApprovalAnswer(False, reason=f"asking failed: {describe(exc)}")
            )
        if not answer.is_approved:
            self._refuse(process, access, answer)
        again, part = self._privileges.decide(process, access)
        if again.effect is Effect.DENY:
            self._conclude(process, access, again, part)
        by = f"by {answer.by}" if answer.by else ""
        self.note(process, access, "approved", f"{by}: {answer.reason}" if answer.reason else by)
        if self._trail is not None:
            waiting.doing = _FLUSHED
            await self._trail.flushed()

    def _refuse(self, process: AgentProcess, access: Access, answer: ApprovalAnswer) -> NoReturn:
        reason = answer.reason or (f"{answer.by} refused" if answer.by else "the answer was no")
        self.note(process, access, "refused", reason)
        who = process.identity
        raise ApprovalRefused(process.pid, access.action, str(access.resource), reason, agent=who)

    def _request(
        self, process: AgentProcess, access: Access, decision: Decision
    ) -> ApprovalRequest:
        now = self._now()
        return ApprovalRequest(
            id=secrets.token_hex(8),
            digest=digest_of(process.identity, access),
            pid=process.pid,
            agent=process.identity,
            action=access.action,
            resource=str(access.resource),
            arguments=to_plain_json(access.arguments),
            why=decision.why,
            asked_at=now,
            expires_at=now + self._approval_timeout_s,
            labels=tuple(sorted(process.labels)),
            also=tuple(f"{one.action} {one.resource}" for one in access.also),
        )


def _is_about_others(process: AgentProcess, access: Access) -> bool:
    """Return whether grants may apply: a part of the request is about another agent's resource."""
    return any(one.resource.owner not in (None, process.identity) for one in (access, *access.also))


def _changes_outside(access: Access) -> bool:
    """Return whether it writes to something unowned outside the state directory, like a mount."""
    parts = (access, *access.also)
    return any(one.right is Right.WRITE and one.resource.owner is None for one in parts)
