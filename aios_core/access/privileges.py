"""What is in force: the policy, the grants, and what was worked out from them so far.

How an agent stands to a resource is kept until the policy or a grant changes, or a
grant that it rests on expires; arguments and labels are looked at each time.
Belongs to the kernel's loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from aios_core.access.decision import Decision, Standing, resolve, stand
from aios_core.access.grant_book import GrantBook
from aios_core.access.policy import Effect, Policy, Subject
from aios_core.errors import KernelBug
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess

MAX_KEPT: Final = 10_000  # standings of one agent


class Privileges:
    """See the module. `now` gives seconds since 1970."""

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self.policy = policy
        self.grants = GrantBook()
        self._now = now
        self._subjects: dict[int, Subject] = {}
        self._about: dict[int, dict[tuple[str, Right], Policy]] = {}  # what may matter to it
        self._kept: dict[int, dict[tuple[str, Right, Resource], Standing]] = {}

    def adopt(self, policy: Policy) -> None:
        """Put another policy in force."""
        self.policy = policy
        self._subjects.clear()
        self._about.clear()
        self.settle()

    def settle(self) -> list[Grant]:
        """Grants or policy changed: nothing kept is right any more.

        Returns the grants that are not in force, see `GrantBook.settle`.
        """
        self._kept.clear()
        return self.grants.settle(self.policy, self._now())

    def forget(self, process: AgentProcess) -> None:
        """What is kept for an agent goes with it."""
        self._subjects.pop(process.pid, None)
        self._about.pop(process.pid, None)
        self._kept.pop(process.pid, None)

    def subject(self, process: AgentProcess) -> Subject:
        """The agent, as rules and grants see it."""
        subject = self._subjects.get(process.pid)
        if subject is None:
            above = self.subject(process.parent) if process.parent else None
            subject = self.policy.subject(process.identity, process.group.name, above)
            self._subjects[process.pid] = subject
        return subject

    def standing(self, process: AgentProcess, access: Access) -> Standing:
        """How the agent stands to that, whatever the arguments."""
        kept = self._kept.get(process.pid)
        if kept is None:
            kept = self._kept[process.pid] = {}
        key = access.action, access.right, access.resource
        standing = kept.get(key)
        if standing is not None and (standing.until == math.inf or self._now() < standing.until):
            return standing
        policy, grants = self._policy_about(process, access), self.grants.on(access.resource)
        standing = stand(self.subject(process), access, policy, grants, now=self._now())
        if len(kept) >= MAX_KEPT:
            kept.clear()
        kept[key] = standing
        return standing

    def _policy_about(self, process: AgentProcess, access: Access) -> Policy:
        """The rules that may matter to this agent's action, whatever the resource."""
        about = self._about.setdefault(process.pid, {})
        key = access.action, access.right
        if key not in about:
            about[key] = self.policy.about(self.subject(process), *key)
        return about[key]

    def decide(self, process: AgentProcess, access: Access) -> tuple[Decision, Access]:
        """The strictest decision about all that a request does, and about which part it is."""
        decided = self._decide_one(process, access), access
        for part in access.also:
            other = self._decide_one(process, part)
            if _STRICTNESS[other.effect] > _STRICTNESS[decided[0].effect]:
                decided = other, part
        return decided

    def check(self) -> None:
        """Raise `KernelBug` unless what is kept is what would be worked out now."""
        now, known = self._now(), set(self.grants)
        for grant in known:
            if not known.issuperset(self.grants.on(grant.resource)):
                raise KernelBug(f"a grant on {grant.resource} is in force and was taken back")
        for pid, kept in self._kept.items():
            subject = self._subjects[pid]
            for (action, right, resource), standing in kept.items():
                access, grants = Access(action, right, resource), self.grants.on(resource)
                fresh = stand(subject, access, self.policy, grants, now=now)
                if now < standing.until and fresh != standing:
                    raise KernelBug(f"agent {pid}: what is kept for {action} {resource} is old")

    def _decide_one(self, process: AgentProcess, access: Access) -> Decision:
        standing = self.standing(process, access)
        return resolve(standing, access.arguments, process.labels, access.irreversible)


_STRICTNESS: Final = {effect: strictness for strictness, effect in enumerate(Effect)}
