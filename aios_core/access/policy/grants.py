"""All grants: in memory for decisions, and durably in the database.

`GrantIndex` is pure; the functions below it run on the database's thread.

Promise: a grant is in force only while its grantor may give it. Revoking a grant also
revokes the grants that depend on it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from aios_core.access.policy.decision import has_expired, resolve_rights
from aios_core.access.policy.rules import Effect, Policy, Subject, is_below, names_above
from aios_core.grants import Grant
from aios_core.permissions import Access, Resource, Right
from aios_core.state import Connection

SCHEMA: Final = (
    """
    CREATE TABLE grants (
        kind TEXT NOT NULL,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        receiver TEXT NOT NULL,
        rights TEXT NOT NULL,
        granted_by TEXT NOT NULL,
        granted_at REAL NOT NULL,
        expires_at REAL,
        PRIMARY KEY (kind, owner, name, receiver, granted_by)
    ) WITHOUT ROWID
    """,
    "ALTER TABLE grants ADD COLUMN labels TEXT NOT NULL DEFAULT '[]'",
)

_Key = tuple[Resource, str, str]


class GrantIndex:
    """All grants, and an index of those in force by resource. Belongs to the kernel's loop."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants = {_key(grant): grant for grant in grants}
        self._in_force: dict[tuple[str, str | None, str], list[Grant]] = {}  # by resource

    def __iter__(self) -> Iterator[Grant]:
        return iter(tuple(self._grants.values()))

    def __len__(self) -> int:
        return len(self._grants)

    def on(self, resource: Resource) -> list[Grant]:
        """List the grants in force on a resource, or on a resource above it."""
        kind, owner, in_force = resource.kind, resource.owner, self._in_force
        return [
            grant
            for name in names_above(resource.name)
            for grant in in_force.get((kind, owner, name), ())
        ]

    def put(self, grant: Grant) -> None:
        self._grants[_key(grant)] = grant

    def remove(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._grants.pop(_key(grant), None)

    def refresh(self, policy: Policy, now: float) -> list[Grant]:
        """Recompute which grants are in force. Returns those that lost their support."""
        supported = supported_grants(self, policy, now)
        in_force = defaultdict(list)
        for grant in supported:
            what = grant.resource
            in_force[what.kind, what.owner, what.name.rstrip("/")].append(grant)
        self._in_force = dict(in_force)
        return [grant for grant in self if grant not in supported]

    def revoked_by(self, resource: Resource, to: str, giver: str) -> list[Grant]:
        """List the grants that `giver` revokes from `to`: its own, or all if it is the owner."""
        return [
            grant
            for grant in self
            if grant.to == to
            and grant.resource.kind == resource.kind
            and grant.resource.owner == resource.owner
            and is_below(grant.resource.name, resource.name)
            and giver in (resource.owner, grant.granted_by)
        ]


def supported_grants(grants: Iterable[Grant], policy: Policy, now: float) -> set[Grant]:
    """Keep the grants that an owner gave, or a grantor that holds the right by a kept grant.

    Two grants that depend only on each other are not supported.
    """
    waiting = {grant for grant in grants if not has_expired(grant, now)}
    supported = {grant for grant in waiting if grant.granted_by == grant.resource.owner}
    waiting -= supported
    while more := {one for one in waiting if _can_give(one, supported, policy, now)}:
        supported |= more
        waiting -= more
    return supported


def _can_give(grant: Grant, supported: set[Grant], policy: Policy, now: float) -> bool:
    giver, rights = policy.subject_named(grant.granted_by), {*grant.rights, Right.SHARE}
    return rights <= rights_of(giver, grant.resource, supported, policy, now=now)


def rights_of(
    subject: Subject, resource: Resource, grants: Iterable[Grant], policy: Policy, *, now: float
) -> frozenset[Right]:
    """List the rights that an agent has on a resource, and therefore may grant."""
    grants, held = tuple(grants), set()
    for right in Right:
        resolution = resolve_rights(
            subject, Access("access.grant", right, resource), policy, grants, now=now
        )
        allowing = (r for r in resolution.rules if r.effect is Effect.ALLOW and r.is_static)
        if resolution.right is not None or any(allowing):
            held.add(right)
    return frozenset(held)


# --- in a transaction -------------------------------------------------------------------------


def load(connection: Connection) -> list[Grant]:
    """Read all stored grants."""
    return [
        Grant(
            Resource(kind, owner, name),
            receiver,
            frozenset(map(Right, rights.split("+"))),
            granted_by,
            granted_at,
            expires_at,
            frozenset(json.loads(labels)),
        )
        for kind, owner, name, receiver, rights, granted_by, granted_at, expires_at, labels in (
            connection.execute("SELECT * FROM grants")
        )
    ]


def store(connection: Connection, grant: Grant) -> None:
    """Write a grant; it replaces an earlier one of the same grantor to the same receiver."""
    what = grant.resource
    rights = "+".join(sorted(grant.rights))
    row = (what.kind, what.owner, what.name, grant.to, rights)
    connection.execute(
        "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *row,
            grant.granted_by,
            grant.granted_at,
            grant.expires_at,
            json.dumps(sorted(grant.labels)),
        ),
    )


def erase(connection: Connection, grants: Iterable[Grant]) -> None:
    """Delete grants."""
    for grant in grants:
        what = grant.resource
        connection.execute(
            "DELETE FROM grants WHERE kind = ? AND owner = ? AND name = ? AND receiver = ? "
            "AND granted_by = ?",
            (what.kind, what.owner, what.name, grant.to, grant.granted_by),
        )


def _key(grant: Grant) -> _Key:
    return grant.resource, grant.to, grant.granted_by
