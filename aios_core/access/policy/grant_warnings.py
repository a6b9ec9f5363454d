"""Find what is doubtful about a grant: a missing resource, a receiver that does not exist.

Such a grant is made anyway: a folder may be shared before the first file is in it, and
with an agent before it is spawned. But most often it is a typing mistake, so the grantor is warned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aios_core.access.policy.rules import Policy, matches
from aios_core.grants import EVERYBODY, GROUP, AccessGrant, Grant
from aios_core.manager import Holder
from aios_core.permissions import Resource, Right


@dataclass(frozen=True, slots=True)
class Census:
    """The agents, groups and resources that exist.

    Attributes:
        holders: the managers of what agents share.
        is_alive: whether an agent of that identity lives.
        groups: the names of the groups that agents belong to.
    """

    holders: Sequence[Holder] = ()
    is_alive: Callable[[str], bool] = lambda _: True
    groups: Callable[[], Iterable[str]] = tuple

    async def has(self, resource: Resource) -> bool:
        """Return whether a resource exists, or no manager knows."""
        answers = [await holder.holds(resource) for holder in self.holders]
        return True in answers or False not in answers

    async def knows(self, identity: str) -> bool:
        """Return whether an agent is alive, or has data from an earlier lifetime."""
        if self.is_alive(identity):
            return True
        return any([await holder.knows(identity) for holder in self.holders])


async def doubts_about(
    request: AccessGrant, census: Census, policy: Policy, grants: Iterable[Grant]
) -> tuple[str, ...]:
    """Return what is doubtful about a grant, as texts; () if nothing is.

    A right to write includes creating the resource, which then does not have to exist.
    """
    found = []
    if Right.WRITE not in request.rights and not await census.has(request.resource):
        found.append(f"{request.resource} does not exist; the grant holds once it does")
    if request.to.startswith(GROUP):
        found += _about_group(request.to.removeprefix(GROUP), census, policy)
    elif not (_is_mentioned(request.to, policy, grants) or await census.knows(request.to)):
        found.append(f"there is no agent {request.to!r}; the grant holds once there is")
    return tuple(found)


def _about_group(name: str, census: Census, policy: Policy) -> Iterator[str]:
    known = {*census.groups(), *policy.groups}
    if name not in known:
        have = f"; have {sorted(known)}" if known else ""
        yield f"no agent is in group {name!r}{have}; the grant holds once there is one"


def _is_mentioned(identity: str, policy: Policy, grants: Iterable[Grant]) -> bool:
    """Return whether it is everybody, or an agent that the policy or an earlier grant names."""
    if identity == EVERYBODY:
        return True
    members = (pattern for group in policy.groups.values() for pattern in group.members)
    if any(matches(pattern, identity) for pattern in members):
        return True
    return any(identity in (grant.to, grant.granted_by) for grant in grants)
