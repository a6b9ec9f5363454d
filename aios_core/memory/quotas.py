"""Charge agents and groups for what they keep in memory.

A charge is part of the transaction that stores the data, so that the recorded usage equals
what is stored even after a crash. An object is charged with its uncompressed size, its name
and `OVERHEAD` bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aios_core.errors import QuotaExceeded
from aios_core.identity import group_of
from aios_core.labels import labels_from_rows
from aios_core.process import AgentProcess
from aios_core.state import Connection

OVERHEAD: Final = 64  # bytes charged for a block, message or key, in addition to name and content


def size_charged(size: int, name: str = "") -> int:
    """Return the bytes that an object is charged with."""
    return OVERHEAD + len(name.encode()) + size


@dataclass(frozen=True, slots=True)
class QuotaOwner:
    """The agent that is charged. `group` None: look up the group that its usage counts in."""

    owner: str
    group: str | None = None

    @classmethod
    def of(cls, process: AgentProcess, owner: str | None) -> QuotaOwner:
        """Return the quota_owner to charge when a process changes the memory of `owner`."""
        if owner is None or owner == process.identity:
            return cls(process.identity, process.group.name)
        return cls(owner)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The memory quotas of agents and groups, in bytes. None: no limit.

    `of_agent` and `of_group` are the defaults; `agents` (by identity) and `groups` (by name)
    override them.
    """

    of_agent: int | None
    of_group: int | None
    groups: Mapping[str, int]
    agents: Mapping[str, int] = field(default_factory=dict)

    def limit_of_agent(self, identity: str) -> int | None:
        return self.agents.get(identity, self.of_agent)

    def limit_of_group(self, group: str) -> int | None:
        return self.groups.get(group, self.of_group)

    def charge(self, connection: Connection, quota_owner: QuotaOwner, amount: int) -> None:
        """Charge `amount` bytes more (or less, if negative).

        Raises `QuotaExceeded`; the caller must let it abort the transaction.
        """
        used, was_in = _usage(connection, quota_owner.owner)
        group = quota_owner.group or was_in or group_of(quota_owner.owner)
        # The agent has been spawned into another group since: its bytes move there.
        if was_in is not None and was_in != group:
            _charge_group(connection, was_in, -used)
            _charge_group(connection, group, used)
        if amount > 0:
            _require_quota(
                connection, quota_owner.owner, self.limit_of_agent(quota_owner.owner), used, amount
            )
            limit = self.limit_of_group(group)
            taken = 0 if limit is None else group_usage(connection, group)
            _require_quota(connection, f"group {group!r}", limit, taken, amount)
        connection.execute(
            "INSERT INTO memory_usage VALUES (?1, ?2, ?3) ON CONFLICT (owner) DO UPDATE "
            "SET bytes = excluded.bytes, family = excluded.family",
            (quota_owner.owner, group, used + amount),
        )
        _charge_group(connection, group, amount)

    def usage(self, connection: Connection, quota_owner: QuotaOwner) -> tuple[int, str, int]:
        """Return the agent's bytes, the name of its group, and the group's bytes."""
        used, was_in = _usage(connection, quota_owner.owner)
        group = quota_owner.group or was_in or group_of(quota_owner.owner)
        return used, group, group_usage(connection, group)


def group_usage(connection: Connection, group: str) -> int:
    """Return the bytes that the agents of a group keep."""
    query = "SELECT bytes FROM memory_group_usage WHERE family = ?"
    row = connection.execute(query, (group,)).fetchone()
    return int(row[0]) if row else 0


def _usage(connection: Connection, owner: str) -> tuple[int, str | None]:
    query = "SELECT bytes, family FROM memory_usage WHERE owner = ?"
    row = connection.execute(query, (owner,)).fetchone()
    return (int(row[0]), str(row[1])) if row else (0, None)


def _charge_group(connection: Connection, group: str, amount: int) -> None:
    connection.execute(
        "INSERT INTO memory_group_usage VALUES (?, ?) ON CONFLICT (family) DO UPDATE "
        "SET bytes = excluded.bytes",
        (group, group_usage(connection, group) + amount),
    )


def labels_of_owner(connection: Connection, owner: str) -> frozenset[str]:
    """Return the labels of all that an agent keeps in memory, those of names included."""
    return labels_from_rows(connection.execute(_LABELS, (owner,)))


_LABELS: Final = """
    SELECT DISTINCT labels, name_labels FROM memory_blocks WHERE owner = ?1
    UNION SELECT m.labels, t.name_labels
        FROM memory_threads t JOIN memory_messages m ON m.thread = t.id WHERE t.owner = ?1
    UNION SELECT labels, name_labels FROM memory_kv WHERE owner = ?1
"""
_LARGEST: Final = """
    SELECT 'block ' || name, size FROM memory_blocks WHERE owner = ?1
    UNION ALL
    SELECT 'thread ' || t.name, sum(m.charged)
        FROM memory_threads t JOIN memory_messages m ON m.thread = t.id
        WHERE t.owner = ?1 GROUP BY t.id
    UNION ALL
    SELECT 'namespace ' || namespace, sum(charged) FROM memory_kv WHERE owner = ?1
        GROUP BY namespace
    ORDER BY 2 DESC LIMIT 3
"""


def _require_quota(
    connection: Connection, holder: str, limit: int | None, used: int, amount: int
) -> None:
    """Raise `QuotaExceeded` if an agent or group would exceed its limit, naming the largest."""
    if limit is None or used + amount <= limit:
        return
    rows = connection.execute(_LARGEST, (holder,)).fetchall()
    largest = ", ".join(f"{name} ({size:,} bytes)" for name, size in rows)
    keys = "memory.quota_bytes, or memory.agent_quotas for this agent alone"
    if holder.startswith("group "):
        keys = "memory.group_quotas"
        largest = "the memory of its agents"
    refusal = QuotaExceeded(
        holder,
        "bytes of memory",
        limit=limit,
        used=used,
        requested=amount,
        hint=f"clear or shorten {largest or 'what is to be kept'}; or raise {keys}",
    )
    raise refusal.with_labels(labels_of_owner(connection, holder))
