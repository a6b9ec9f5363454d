"""Explain a decision: each right, grant and rule that was considered, and whether it fits.

Pure. The decision itself is made in `decision.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from aios_core.access.policy.decision import (
    Decision,
    decide,
    has_expired,
    implicit_right,
    is_granted,
)
from aios_core.access.policy.rules import Policy, Rule, Subject
from aios_core.errors import InvalidRequest
from aios_core.grants import Grant, require_identity
from aios_core.permissions import KINDS, Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.suggestions import suggest
from aios_core.syscalls import known_kinds
from aios_core.untrusted.arguments import require_text


@dataclass(frozen=True, slots=True)
class Consideration:
    """One right, grant or rule that was considered."""

    what: str
    fits: bool
    reason: str

    def __str__(self) -> str:
        return f"  {'+' if self.fits else '-'} {self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and everything that was considered for it."""

    subject: Subject
    access: Access
    decision: Decision
    considered: tuple[Consideration, ...]

    def __str__(self) -> str:
        effect = {"allow": "allowed", "ask": "asks first", "deny": "denied"}[self.decision.effect]
        groups = ", ".join(sorted(self.subject.groups))
        asked = f"{self.access.action} ({self.access.right}) {self.access.resource}"
        return "\n".join(
            (
                f"{effect}: {self.decision.why}",
                f"  {self.subject.identity} (groups: {groups}): {asked}",
                *map(str, self.considered),
            )
        )


_READS = frozenset(
    {"changes", "check", "diff", "history", "in_doubt", "list", "read", "retrieve", "search"}
    | {"snapshots", "stat", "usage", "wait"}
)


def right_of(action: str) -> Right:
    """Guess the right that an action needs, for a person who names none."""
    manager, _, verb = action.partition(".")
    if manager == "llm" or verb in ("run", "ask"):
        return Right.EXECUTE
    if verb in ("grant", "revoke"):
        return Right.SHARE
    return Right.READ if verb in _READS else Right.WRITE


class AccessOptions(TypedDict, total=False):
    """The keyword arguments of `parse_access`."""

    right: str | None  # None: the one that the action always needs
    arguments: Mapping[str, Any] | None  # of the request, for rules that read them
    irreversible: str | None  # why it cannot be undone; None: as the action has it


class ExplainOptions(AccessOptions, total=False):
    """The keyword arguments of `Kernel.explain_access`."""

    labels: Iterable[str]  # that the agent carries


def parse_access(
    action: str,
    resource: str,
    *,
    right: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    irreversible: str | None = None,
) -> Access:
    """Build the access that a person asks about, from its parts as text.

    Raises `InvalidRequest`, which lists what is allowed, for an unknown action or right, or a
    malformed resource.
    """
    action = require_text("action", action)
    _require_action(action)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InvalidRequest(f"arguments: got {shown_repr(arguments)}; allowed: a mapping")
    if irreversible is not None:
        irreversible = require_text("irreversible", irreversible)
    try:
        wanted = right_of(action) if right is None else Right(right)
    except Exception as exc:  # any other object, whose class may raise anything  # prose: ok
        raise InvalidRequest(
            f"right: got {shown_repr(right)}; allowed: one of {[*map(str, Right)]}"
        ) from exc
    what = parse_resource(resource)
    return Access(action, wanted, what, arguments or {}, irreversible or _why_final(action, what))


#: Actions that cannot be undone, for any arguments, and why.
_FINAL: Final = {
    "access.ask": "the agent itself asks for permission",
    "collection.delete": "a collection keeps no older state",
    "memory.clear": "memory keeps no older versions",
    "memory.clear_all": "memory keeps no older versions",
    "memory.kv_clear": "memory keeps no older versions",
    "memory.thread_clear": "memory keeps no older versions",
    "memory.write": "it may write over a block; memory keeps no older versions",
    "storage.forget": "a deleted snapshot cannot be restored",
    "storage.purge": "a purged version cannot be brought back",
    "tool.resolve": "it settles whether a call took effect",
}
_FINAL_FOR_ALL: Final = {  # where it is done to an unowned resource
    "storage.delete": "a file in a mount keeps no older version",
    "storage.write": "it may write over a file in a mount, which keeps no older version",
    "tool.load": "it runs code in the kernel's process",
    "tool.unload": "it removes a tool for all agents",
}


def _why_final(action: str, resource: Resource) -> str | None:
    """Return why an action cannot be undone, as far as is known without its arguments."""
    if action in _FINAL:
        return _FINAL[action]
    return _FINAL_FOR_ALL.get(action) if resource.owner is None else None


def parse_resource(text: str) -> Resource:
    """Parse a resource written as "kind:owner:name". Raises `InvalidRequest`."""
    text = require_text("resource", text)
    kind, *rest = text.split(":", 2)
    if not kind or not rest:
        raise InvalidRequest(f"resource {text!r}: allowed: 'kind:owner:name'")
    if kind not in KINDS and (hint := suggest(kind, KINDS)):
        raise InvalidRequest(f"resource {text!r}: no kind {kind!r}; {hint}")
    if rest[0]:
        require_identity(f"resource {text!r}", rest[0])
    return Resource(kind, rest[0] or None, rest[1] if len(rest) > 1 else "")


def _require_action(action: object) -> None:
    known = known_kinds()
    if action in known:
        return
    hint = suggest(str(action), known)
    listed = ", ".join(sorted(known))
    raise InvalidRequest(f"action: got {action!r}; {hint or 'no such action'}; allowed: {listed}")


def explain(
    subject: Subject,
    access: Access,
    labels: AbstractSet[str],
    policy: Policy,
    grants: Iterable[Grant],
    *,
    now: float,
) -> Explanation:
    """Decide, and list each right, grant and rule that was considered."""
    grants = tuple(grants)
    considered = [
        _own(subject, access, policy),
        *(_grant(grant, subject, access, now) for grant in grants),
        *(_rule(rule, subject, access, labels) for rule in policy.rules),
    ]
    if access.irreversible:
        considered.append(Consideration("it cannot be undone", True, access.irreversible))
    decision = decide(subject, access, labels, policy, grants, now=now)
    return Explanation(subject, access, decision, tuple(considered))


def _own(subject: Subject, access: Access, policy: Policy) -> Consideration:
    right = implicit_right(subject, access.right, access.resource, policy)
    owner = access.resource.owner
    otherwise = (
        f"it belongs to {owner}"
        if owner
        else f"unowned, and `access.unowned_rights` lacks {access.right}"
    )
    if right is None:
        return Consideration("not the agent's own", False, otherwise)
    return Consideration("the agent's own", True, right)


def _grant(grant: Grant, subject: Subject, access: Access, now: float) -> Consideration:
    lacks = []
    if not is_granted(grant, access.resource):
        lacks.append("it is on something else")
    if access.right not in grant.rights:
        lacks.append(f"it is not one to {access.right}")
    if not subject.matches(grant.to):
        lacks.append("it is to another agent")
    if has_expired(grant, now):
        lacks.append("it has expired")
    return Consideration(f"grant of {grant}", not lacks, "; ".join(lacks) or "grants it")


def _rule(rule: Rule, subject: Subject, access: Access, labels: AbstractSet[str]) -> Consideration:
    lacks = []
    if not rule.fits_agent(subject):
        lacks.append(f"means other agents ({', '.join(rule.agents)})")
    if not rule.fits_action(access.action, access.right):
        lacks.append(f"means other actions ({', '.join(rule.actions)})")
    if not rule.fits_resource(access.resource):
        lacks.append(f"means other resources ({', '.join(rule.resources)})")
    if not rule.fits_labels(labels):
        lacks.append(f"means agents that have read {' or '.join(rule.labels)}")
    if not rule.fits_arguments(access.arguments):
        lacks.append(f"means arguments where {' and '.join(map(str, rule.when))}")
    fits = f"fits: {rule.effect}" + (f": {rule.reason}" if rule.reason else "")
    return Consideration(str(rule), not lacks, "; ".join(lacks) or fits)
