"""What agents and groups may keep in memory: booked in the transaction that keeps it.

So the books are always those of what is stored, whatever was killed when. Content
counts with its own size, uncompressed, and everything that has a name of its own
with `OVERHEAD` bytes and its name besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from aios_core.errors import QuotaExceeded
from aios_core.memory.codec import labels_from_rows
from aios_core.process import AgentProcess
from aios_core.state import Connection

OVERHEAD: Final = 64  # bytes that a block, a message or a key counts besides name and content


def charge_of(size: int, name: str = "") -> int:
    """What an object counts, in bytes."""
    return OVERHEAD + len(name.encode()) + size


@dataclass(frozen=True, slots=True)
class Account:
    """Whose quota it is. `group` None: another agent's, whose group is looked up."""

    owner: str
    group: str | None = None

    @classmethod
    def of(cls, process: AgentProcess, owner: str | None) -> Account:
        """The account of the one whose memory is meant when that agent asks."""
        if owner is None or owner == process.identity:
            return cls(process.identity, process.group.name)
        return cls(owner)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits in bytes; None: no limit.

    `groups` is laid over `of_group`, and `agents`, by identity, over `of_agent`.
    """

    of_agent: int | None
    of_group: int | None
    groups: Mapping[str, int]
    agents: Mapping[str, int] = field(default_factory=dict)

    def limit_of_agent(self, identity: str) -> int | None:
        return self.agents.get(identity, self.of_agent)

    def limit_of_group(self, group: str) -> int | None:
        return self.groups.get(group, self.of_group)

    def charge(self, connection: Connection, account: Account, amount: int) -> None:
        """Book `amount` bytes more (or less, if negative).

        Raises `QuotaExceeded`; the transaction has to fail with it.
        """
        used, was_in = _usage(connection, account.owner)
        group = account.group or was_in or group_of(account.owner)
        if was_in is not None and was_in != group:
            _book_group(connection, was_in, -used)
            _book_group(connection, group, used)
        if amount > 0:
            _refuse_excess(
                connection, account.owner, self.limit_of_agent(account.owner), used, amount
            )
            limit = self.limit_of_group(group)
            taken = 0 if limit is None else group_usage(connection, group)
            _refuse_excess(connection, f"group {group!r}", limit, taken, amount)
        connection.execute(
            "INSERT INTO memory_usage VALUES (?1, ?2, ?3) ON CONFLICT (owner) DO UPDATE "
            "SET bytes = excluded.bytes, family = excluded.family",
            (account.owner, group, used + amount),
        )
        _book_group(connection, group, amount)

    def usage(self, connection: Connection, account: Account) -> tuple[int, str, int]:
        """Bytes of the agent, its group, bytes of the group."""
        used, was_in = _usage(connection, account.owner)
        group = account.group or was_in or group_of(account.owner)
        return used, group, group_usage(connection, group)


def group_of(identity: str) -> str:
    """The group at the head of an identity."""
    return unquote(identity.partition("/")[0])


def group_usage(connection: Connection, group: str) -> int:
    """Bytes that a group's agents keep."""
    query = "SELECT bytes FROM memory_group_usage WHERE family = ?"
    row = connection.execute(query, (group,)).fetchone()
    return int(row[0]) if row else 0


def _usage(connection: Connection, owner: str) -> tuple[int, str | None]:
    query = "SELECT bytes, family FROM memory_usage WHERE owner = ?"
    row = connection.execute(query, (owner,)).fetchone()
    return (int(row[0]), str(row[1])) if row else (0, None)


def _book_group(connection: Connection, group: str, amount: int) -> None:
    connection.execute(
        "INSERT INTO memory_group_usage VALUES (?, ?) ON CONFLICT (family) DO UPDATE "
        "SET bytes = excluded.bytes",
        (group, group_usage(connection, group) + amount),
    )


def labels_of_owner(connection: Connection, owner: str) -> frozenset[str]:
    """The labels of all that an agent keeps in memory, names included."""
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


def _refuse_excess(
    connection: Connection, whose: str, limit: int | None, used: int, amount: int
) -> None:
    """Raise `QuotaExceeded` if an agent, or a group, would have more than it may."""
    if limit is None or used + amount <= limit:
        return
    rows = connection.execute(_LARGEST, (whose,)).fetchall()
    largest = ", ".join(f"{name} ({size:,} bytes)" for name, size in rows)
    keys = "memory.quota_bytes, or memory.agent_quotas for this agent alone"
    if whose.startswith("group "):
        keys = "memory.group_quotas"
        largest = "the memory of its agents"
    refusal = QuotaExceeded(
        whose,
        "bytes of memory",
        limit=limit,
        used=used,
        requested=amount,
        hint=f"clear or shorten {largest or 'what is to be kept'}; or raise {keys}",
    )
    raise refusal.with_labels(labels_of_owner(connection, whose))
