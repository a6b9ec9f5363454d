"""The policy and the grants in force, with a cache of the rights derived from them.

The access of an agent to a resource is cached until the policy or a grant changes, or a
grant that it depends on expires. Arguments and labels are considered at each request.
Belongs to the kernel's loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from aios_core.access.policy.decision import Decision, Resolution, apply_conditions, resolve_rights
from aios_core.access.policy.grants import GrantIndex
from aios_core.access.policy.rules import Effect, Policy, Subject
from aios_core.errors import KernelBug
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess

MODEL: Final = "model"  # the kind of a model as a resource
MAX_KEPT: Final = 10_000  # resolutions of one agent


class Privileges:
    """The policy and grants in force. `now` returns seconds since 1970."""

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self.policy = policy
        self.grants = GrantIndex()
        self._now = now
        self._subjects: dict[int, Subject] = {}
        self._about: dict[int, dict[tuple[str, Right], Policy]] = {}  # rules that may apply
        self._kept: dict[int, dict[tuple[str, Right, Resource], Resolution]] = {}
        # By agent: the models (action, right, name) that it may call with any arguments.
        self.free_models: dict[int, set[tuple[str, Right, str]]] = {}

    def replace_policy(self, policy: Policy) -> None:
        """Put another policy in force."""
        self.policy = policy
        self._subjects.clear()
        self._about.clear()
        self.invalidate()

    def invalidate(self) -> list[Grant]:
        """Drop the cache, since grants or the policy changed.

        Returns the grants that are not in force, see `GrantIndex.refresh`.
        """
        self._kept.clear()
        self.free_models.clear()
        return self.grants.refresh(self.policy, self._now())

    def forget(self, process: AgentProcess) -> None:
        """Drop what is cached for an exited agent."""
        self._subjects.pop(process.pid, None)
        self._about.pop(process.pid, None)
        self._kept.pop(process.pid, None)
        self.free_models.pop(process.pid, None)

    def subject(self, process: AgentProcess) -> Subject:
        """Describe an agent as rules and grants see it."""
        subject = self._subjects.get(process.pid)
        if subject is None:
            above = self.subject(process.parent) if process.parent else None
            subject = self.policy.subject(process.identity, process.group.name, above)
            self._subjects[process.pid] = subject
        return subject

    def resolution(self, process: AgentProcess, access: Access) -> Resolution:
        """Return the agent's access for an action on a resource, for any arguments."""
        kept = self._kept.get(process.pid)
        if kept is None:
            kept = self._kept[process.pid] = {}
        key = access.action, access.right, access.resource
        resolution = kept.get(key)
        if resolution is not None and (
            resolution.until == math.inf or self._now() < resolution.until
        ):
            return resolution
        policy, grants = self._policy_about(process, access), self.grants.on(access.resource)
        resolution = resolve_rights(self.subject(process), access, policy, grants, now=self._now())
        if len(kept) >= MAX_KEPT:
            kept.clear()
            self.free_models.pop(process.pid, None)
        kept[key] = resolution
        resource = access.resource
        if resource.kind == MODEL and resource.owner is None and resolution.is_permanent:
            free = self.free_models.setdefault(process.pid, set())
            free.add((access.action, access.right, resource.name))
        return resolution

    def _policy_about(self, process: AgentProcess, access: Access) -> Policy:
        """Return the rules that may apply to this agent's action, on any resource."""
        about = self._about.setdefault(process.pid, {})
        key = access.action, access.right
        if key not in about:
            about[key] = self.policy.about(self.subject(process), *key)
        return about[key]

    def decide(self, process: AgentProcess, access: Access) -> tuple[Decision, Access]:
        """Decide about every part of a request. Returns the strictest decision and its part."""
        decided = self._decide_one(process, access), access
        for part in access.also:
            other = self._decide_one(process, part)
            if _STRICTNESS[other.effect] > _STRICTNESS[decided[0].effect]:
                decided = other, part
        return decided

    def check(self) -> None:
        """Raise `KernelBug` unless the cache equals what would be computed now."""
        now, known = self._now(), set(self.grants)
        for grant in known:
            if not known.issuperset(self.grants.on(grant.resource)):
                raise KernelBug(f"a grant on {grant.resource} is in force and was taken back")
        for pid, kept in self._kept.items():
            subject = self._subjects[pid]
            for (action, right, resource), resolution in kept.items():
                access, grants = Access(action, right, resource), self.grants.on(resource)
                fresh = resolve_rights(subject, access, self.policy, grants, now=now)
                if now < resolution.until and fresh != resolution:
                    raise KernelBug(f"agent {pid}: what is kept for {action} {resource} is old")

    def _decide_one(self, process: AgentProcess, access: Access) -> Decision:
        resolution = self.resolution(process, access)
        return apply_conditions(resolution, access.arguments, process.labels, access.irreversible)


_STRICTNESS: Final = {effect: strictness for strictness, effect in enumerate(Effect)}
