"""Decide who may do what: pure functions without a clock, a state or an effect.

    denied by a rule           → deny, always
    no right                   → deny
    a rule asks                → ask
    cannot be undone           → ask, unless a rule approves it beforehand, or it is
                                 an owner's upkeep of its memory or files (OWN_UPKEEP)
    otherwise                  → allow

A right comes from owning the resource, from being a parent of its owner, from the
resource being unowned, from a grant, or from a rule that allows.

Promises, tested as properties: one more rule that denies, or one grant less, never
allows more; the order of rules and grants does not matter.

The decision has two halves, so that the first can be cached: `resolve_rights` considers what does
not change from call to call, `apply_conditions` the arguments and labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.access.policy.rules import Effect, Policy, Rule, Subject, is_below
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right

#: Irreversible actions that an owner does to its own memory and files without an approval:
#: the program called them, as one calls `rm`. All other irreversible actions need an approval.
OWN_UPKEEP: Final = frozenset(
    {
        "memory.write",
        "memory.clear",
        "memory.clear_all",
        "memory.thread_clear",
        "memory.kv_clear",
        "collection.delete",
        "storage.purge",
        "storage.forget",
    }
)

_NOT_GRANTED = "it belongs to another, who has not shared it, and no rule allows it"


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a request, and the reason as text."""

    effect: Effect
    why: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """The access of an agent for an action on a resource, for any arguments."""

    right: str | None  # the origin of its right, as text; None: it has none
    rules: tuple[Rule, ...]  # that may apply, by name
    until: float  # seconds since 1970: an expiring grant may change it then
    asks: bool = True  # whether irreversible actions need an approval
    is_unconditional: bool = field(init=False)  # it is allowed in any case that can be undone

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_unconditional", self.right is not None and not self.rules)

    @property
    def is_permanent(self) -> bool:
        """Return whether it is allowed, and no grant that it rests on expires."""
        return self.is_unconditional and self.until == math.inf


def resolve_rights(
    subject: Subject, access: Access, policy: Policy, grants: Iterable[Grant], *, now: float
) -> Resolution:
    """Find the right and the rules that apply. `grants` may include unrelated ones."""
    right, resource = access.right, access.resource
    rules = sorted(
        (
            rule
            for rule in policy.rules
            if rule.fits_action(access.action, right)
            and rule.fits_resource(resource)
            and rule.fits_agent(subject)
        ),
        key=lambda rule: rule.name,
    )
    granted = [
        grant
        for grant in grants
        if is_granted(grant, resource)
        and right in grant.rights
        and subject.matches(grant.to)
        and not has_expired(grant, now)
    ]
    basis = implicit_right(subject, right, resource, policy)
    if basis is None and granted:
        basis = f"granted: {min(map(str, granted))}"
    ends = (grant.expires_at for grant in granted if grant.expires_at is not None)
    is_upkeep = resource.owner == subject.identity and access.action in OWN_UPKEEP
    asks = policy.confirm_own_irreversible or not is_upkeep
    return Resolution(basis, tuple(rules), min(ends, default=math.inf), asks)


def apply_conditions(
    resolution: Resolution,
    arguments: Mapping[str, Any],
    labels: AbstractSet[str],
    irreversible: str | None,
) -> Decision:
    """Decide about one request: apply the rules to its arguments and labels."""
    fitting = [
        rule
        for rule in resolution.rules
        if rule.fits_labels(labels) and rule.fits_arguments(arguments)
    ]
    if denying := [rule for rule in fitting if rule.effect is Effect.DENY]:
        return Decision(Effect.DENY, _reason(denying[0], "denies it"))
    allowing = [rule for rule in fitting if rule.effect is Effect.ALLOW]
    if resolution.right is None and not allowing:
        return Decision(Effect.DENY, _NOT_GRANTED)
    if asking := [rule for rule in fitting if rule.effect is Effect.ASK]:
        return Decision(Effect.ASK, _reason(asking[0], "asks first"))
    if irreversible and resolution.asks and not any(rule.preapproved for rule in allowing):
        return Decision(Effect.ASK, f"it cannot be undone: {irreversible}")
    why = resolution.right if resolution.right is not None else _reason(allowing[0], "allows it")
    return Decision(Effect.ALLOW, why)


def decide(
    subject: Subject,
    access: Access,
    labels: AbstractSet[str],
    policy: Policy,
    grants: Iterable[Grant],
    *,
    now: float,
) -> Decision:
    """Decide about every part of a request: the strictest decision counts."""
    grants = tuple(grants)
    decisions = [
        apply_conditions(
            resolve_rights(subject, one, policy, grants, now=now),
            one.arguments,
            labels,
            one.irreversible,
        )
        for one in (access, *access.also)
    ]
    return strictest(decisions)


_STRICTNESS = tuple(Effect)


def strictest(decisions: Iterable[Decision]) -> Decision:
    """Return the strictest of several decisions."""
    return max(decisions, key=lambda decision: _STRICTNESS.index(decision.effect))


def implicit_right(
    subject: Subject, right: Right, resource: Resource, policy: Policy
) -> str | None:
    """Return the right that an agent has without a grant or a rule, as text; None: no right."""
    owner = resource.owner
    if owner == subject.identity:
        return "it is the agent's own"
    if owner is None:
        return (
            "it is unowned, and `access.unowned_rights` has this right"
            if right in policy.unowned_rights
            else None
        )
    if right in policy.parent_rights and owner.startswith(f"{subject.identity}/"):
        return "it belongs to a descendant"
    return None


def is_granted(grant: Grant, resource: Resource) -> bool:
    """Return whether a grant is one on the resource, or on what it is a part of."""
    granted = grant.resource
    return (
        granted.kind == resource.kind
        and granted.owner == resource.owner
        and is_below(resource.name, granted.name)
    )


def has_expired(grant: Grant, now: float) -> bool:
    """Return whether a grant has expired."""
    return grant.expires_at is not None and now >= grant.expires_at


def _reason(rule: Rule, does: str) -> str:
    return f"{rule} {does}" + (f": {rule.reason}" if rule.reason else "")
