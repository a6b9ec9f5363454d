"""The database tables of conversations: an ordered log of messages for each thread.

Every message has a number that never changes and is never used again, and a position: the
number of messages of its status that come before it. Runs on the database's threads, in its
caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import NoSuchObject
from aios_core.labels import labels_from_rows, labels_from_text, labels_of_all, labels_to_text
from aios_core.memory.codec import Codec
from aios_core.memory.naming import prefix_end
from aios_core.memory.quotas import QuotaOwner, Quotas, size_charged
from aios_core.memory.records import Name, ThreadEntry
from aios_core.state import Connection
from aios_core.untrusted.fields import CheckedFields

ACTIVE: Final = "active"
ARCHIVED: Final = "archived"
ALL: Final = "all"
STATUSES: Final = (ACTIVE, ARCHIVED, ALL)
_COLUMNS: Final = "number, content, at, is_archived, labels"
_IS_ARCHIVED: Final = {ACTIVE: (0, 0), ARCHIVED: (1, 1), ALL: (0, 1)}


@dataclass(frozen=True, slots=True)
class Window(CheckedFields):
    """A range of a thread's messages: of a status, skip some and take some, from one end."""

    status: str = ACTIVE
    skip: int = 0
    take: int | None = None  # None: all that are left
    is_from_end: bool = False

    def select(self, columns: str) -> str:
        """Return the SQL query for the range; its parameters come from `parameters`."""
        order = "DESC" if self.is_from_end else "ASC"
        return (
            f"SELECT {columns} FROM memory_messages WHERE thread = ? "  # noqa: S608 - constants
            f"AND is_archived BETWEEN ? AND ? ORDER BY number {order} LIMIT ? OFFSET ?"
        )

    def parameters(self, thread: int) -> tuple[int, ...]:
        take = -1 if self.take is None else self.take
        return (thread, *_IS_ARCHIVED[self.status], take, self.skip)


class ThreadTable:
    """Reads and changes conversations in the database. `wall` returns seconds since 1970."""

    def __init__(self, codec: Codec, quotas: Quotas, wall: Callable[[], float]) -> None:
        self._codec = codec
        self._quotas = quotas
        self._wall = wall

    # --- reading -----------------------------------------------------------------------------

    def read(
        self, connection: Connection, owner: str, name: str, window: Window
    ) -> tuple[ThreadEntry, ...]:
        """Return the messages of a window, the oldest first, also if it counts from the end."""
        thread = _thread(connection, owner, name)
        if thread is None:
            return ()
        query, parameters = window.select(_COLUMNS), window.parameters(thread)
        rows = connection.execute(query, parameters).fetchall()
        return self._entries(owner, name, rows[::-1] if window.is_from_end else rows)

    def chosen(
        self, connection: Connection, owner: str, name: str, chosen: Window | tuple[int, ...]
    ) -> tuple[ThreadEntry, ...]:
        """Return messages by window or by number, the oldest first; skip unknown numbers."""
        if isinstance(chosen, Window):
            return self.read(connection, owner, name, chosen)
        if (thread := _thread(connection, owner, name)) is None:
            return ()
        query = f"SELECT {_COLUMNS} FROM memory_messages WHERE thread = ? AND number = ?"  # noqa: S608
        rows = [
            row
            for number in sorted(set(chosen))
            for row in connection.execute(query, (thread, number)).fetchall()
        ]
        return self._entries(owner, name, rows)

    def count(
        self, connection: Connection, owner: str, name: str, status: str
    ) -> tuple[int, frozenset[str]]:
        """Return the number of messages of a status, and their labels. 0 without such a thread."""
        query = (
            "SELECT count(*), m.labels FROM memory_messages m "
            "JOIN memory_threads t ON t.id = m.thread WHERE t.owner = ? AND t.name = ? "
            "AND m.is_archived BETWEEN ? AND ? GROUP BY m.labels"
        )
        rows: list[Any] = connection.execute(query, (owner, name, *_IS_ARCHIVED[status])).fetchall()
        return sum(int(row[0]) for row in rows), labels_from_rows(row[1:] for row in rows)

    def names(self, connection: Connection, owner: str, prefix: str) -> tuple[Name, ...]:
        """Return the threads with a name prefix, sorted."""
        query = (
            "SELECT name, name_labels FROM memory_threads WHERE owner = ?1 AND name >= ?2 "
            "AND (?3 IS NULL OR name < ?3) ORDER BY name"
        )
        rows: Any = connection.execute(query, (owner, prefix, prefix_end(prefix)))
        return tuple(Name(str(name), labels_from_text(labels)) for name, labels in rows)

    # --- changing ----------------------------------------------------------------------------

    def append(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        contents: Sequence[bytes],
        labels: frozenset[str],
    ) -> tuple[int, ...]:
        """Append messages, and create the thread if necessary. Returns their numbers."""
        self._quotas.charge(connection, quota_owner, _charge(contents))
        return self._insert(connection, quota_owner.owner, name, contents, labels)

    def replace(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        contents: Sequence[bytes],
        labels: frozenset[str],
    ) -> tuple[int, ...]:
        """Replace all messages of a thread, archived ones included. Returns the new numbers."""
        thread = _thread(connection, quota_owner.owner, name)
        before = 0 if thread is None else _charged(connection, thread)
        self._quotas.charge(connection, quota_owner, _charge(contents) - before)
        if thread is not None:
            connection.execute("DELETE FROM memory_messages WHERE thread = ?", (thread,))
        return self._insert(connection, quota_owner.owner, name, contents, labels)

    def remove(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        chosen: Window | tuple[int, ...],
    ) -> tuple[ThreadEntry, ...]:
        """Remove messages by window or by number. Returns the removed ones."""
        thread = _thread(connection, quota_owner.owner, name)
        if thread is None:
            return ()
        entries = self.chosen(connection, quota_owner.owner, name, chosen)
        freed = 0
        for entry in entries:
            query = "DELETE FROM memory_messages WHERE thread = ? AND number = ? RETURNING charged"
            row = connection.execute(query, (thread, entry.number)).fetchone()
            freed += int(row[0]) if row else 0
        self._quotas.charge(connection, quota_owner, -freed)
        return entries

    def archive(
        self, connection: Connection, owner: str, name: str, chosen: Window | tuple[int, ...]
    ) -> tuple[ThreadEntry, ...]:
        """Archive messages by window or by number. Returns the archived ones."""
        thread = _thread(connection, owner, name)
        if thread is None:
            return ()
        entries = self.chosen(connection, owner, name, chosen)
        connection.executemany(
            "UPDATE memory_messages SET is_archived = 1 WHERE thread = ? AND number = ?",
            [(thread, entry.number) for entry in entries],
        )
        return entries

    def clear(self, connection: Connection, quota_owner: QuotaOwner, name: str) -> None:
        """Delete a thread. Raises `NoSuchObject`."""
        thread = _thread(connection, quota_owner.owner, name)
        if thread is None:
            known = self.names(connection, quota_owner.owner, "")
            refusal = NoSuchObject("thread", name, (one.text for one in known))
            raise refusal.with_labels(labels_of_all(known))
        self._quotas.charge(connection, quota_owner, -_charged(connection, thread))
        connection.execute("DELETE FROM memory_threads WHERE id = ?", (thread,))

    # --- inside ------------------------------------------------------------------------------

    def _entries(
        self, owner: str, name: str, rows: Sequence[tuple[Any, ...]]
    ) -> tuple[ThreadEntry, ...]:
        return tuple(
            ThreadEntry(
                number,
                json.loads(self._codec.unpack(stored, *_about(owner, name, number))),
                at,
                bool(is_archived),
                labels_from_text(labels),
            )
            for number, stored, at, is_archived, labels in rows
        )

    def _insert(
        self,
        connection: Connection,
        owner: str,
        name: str,
        contents: Sequence[bytes],
        labels: frozenset[str],
    ) -> tuple[int, ...]:
        query = (
            "INSERT INTO memory_threads (owner, name, next_number, name_labels) "
            "VALUES (?1, ?2, ?3, ?4) "
            "ON CONFLICT (owner, name) DO UPDATE SET next_number = next_number + ?3 "
            "RETURNING id, next_number"
        )
        now, text = self._wall(), labels_to_text(labels)
        row: Any = connection.execute(query, (owner, name, len(contents), text)).fetchone()
        thread, following = row
        numbers = tuple(range(following - len(contents), following))
        connection.executemany(
            "INSERT INTO memory_messages VALUES (?, ?, ?, ?, 0, ?, ?)",
            [
                (
                    thread,
                    number,
                    self._codec.pack(content, *_about(owner, name, number)),
                    size_charged(len(content)),
                    text,
                    now,
                )
                for number, content in zip(numbers, contents, strict=True)
            ],
        )
        return numbers


def _thread(connection: Connection, owner: str, name: str) -> int | None:
    query = "SELECT id FROM memory_threads WHERE owner = ? AND name = ?"
    row = connection.execute(query, (owner, name)).fetchone()
    return int(row[0]) if row else None


def _charge(contents: Sequence[bytes]) -> int:
    return sum(size_charged(len(content)) for content in contents)


def _charged(connection: Connection, thread: int) -> int:
    query = "SELECT sum(charged) FROM memory_messages WHERE thread = ?"
    row: Any = connection.execute(query, (thread,)).fetchone()
    return int(row[0] or 0)


def _about(owner: str, name: str, number: int) -> tuple[str, ...]:
    return owner, "thread", name, str(number)
