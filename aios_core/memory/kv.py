"""The database table of key-value namespaces: sorted by key, several keys in a transaction.

Readers never see an expired entry; its row is deleted by a later change of its owner's
namespaces. Runs on the database's threads, in its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import QuotaExceeded
from aios_core.labels import labels_from_rows, labels_from_text, labels_to_text
from aios_core.memory.codec import Codec
from aios_core.memory.naming import prefix_end
from aios_core.memory.quotas import QuotaOwner, Quotas, size_charged
from aios_core.memory.records import Content, KeyValue, Name
from aios_core.state import Connection
from aios_core.untrusted.fields import CheckedFields

_FACTS: Final = "is_text, created_at, updated_at, expires_at, labels, name_labels"
_IS_THERE: Final = "(expires_at IS NULL OR expires_at > ?)"
_MAX_PURGED: Final = 256  # expired rows that one change deletes, to keep its transaction short

PackedItems = Sequence[tuple[str, Content | None, bytes]]  # None: remove the key


@dataclass(frozen=True, slots=True)
class KeyRange(CheckedFields):
    """A range of a namespace's entries: those with a key prefix, in ascending or descending order.

    With `after`, only the keys behind that one; with `limit`, at most that many entries.
    """

    prefix: str = ""
    after: str | None = None  # the last key of the page before
    limit: int | None = None
    is_reversed: bool = False
    with_values: bool = True


class KeyValueTable:
    """Reads and changes key-value entries in the database. `wall` returns seconds since 1970."""

    def __init__(self, codec: Codec, quotas: Quotas, wall: Callable[[], float]) -> None:
        self._codec = codec
        self._quotas = quotas
        self._wall = wall

    def get(
        self, connection: Connection, owner: str, namespace: str, keys: Iterable[str]
    ) -> tuple[KeyValue, ...]:
        """Return the entries of the keys that exist, in the given order."""
        query = (
            f"SELECT key, value, {_FACTS} FROM memory_kv WHERE owner = ? AND namespace = ? "  # noqa: S608
            f"AND key = ? AND {_IS_THERE}"
        )
        now = self._wall()
        rows = (
            connection.execute(query, (owner, namespace, key, now)).fetchone()
            for key in dict.fromkeys(keys)
        )
        return tuple(self._entry(owner, namespace, row) for row in rows if row is not None)

    def list(
        self, connection: Connection, owner: str, namespace: str, key_range: KeyRange
    ) -> tuple[KeyValue, ...]:
        """Return the entries of a key_range, sorted by key."""
        value = "value" if key_range.with_values else "NULL"
        side, order = ("<", "DESC") if key_range.is_reversed else (">", "ASC")
        query = (
            f"SELECT key, {value}, {_FACTS} FROM memory_kv WHERE owner = ? AND namespace = ? "  # noqa: S608
            f"AND {_IS_THERE} AND key >= ?"
        )
        parameters: list[Any] = [owner, namespace, self._wall(), key_range.prefix]
        if (end := prefix_end(key_range.prefix)) is not None:
            query += " AND key < ?"
            parameters.append(end)
        if key_range.after is not None:
            query += f" AND key {side} ?"
            parameters.append(key_range.after)
        query += f" ORDER BY key {order} LIMIT ?"
        parameters.append(-1 if key_range.limit is None else key_range.limit)
        rows = connection.execute(query, parameters).fetchall()
        return tuple(self._entry(owner, namespace, row) for row in rows)

    def namespaces(self, connection: Connection, owner: str, prefix: str) -> tuple[Name, ...]:
        """Return the non-empty namespaces, sorted, each with the labels of all its entries."""
        query = (
            "SELECT DISTINCT namespace, labels, name_labels FROM memory_kv "
            "WHERE owner = ?1 AND namespace >= ?2 AND (?3 IS NULL OR namespace < ?3) "
            "AND (expires_at IS NULL OR expires_at > ?4) "
            "ORDER BY namespace"
        )
        parameters = (owner, prefix, prefix_end(prefix), self._wall())
        found: dict[str, list[Any]] = {}
        for name, *labels in connection.execute(query, parameters):
            found.setdefault(str(name), []).append(labels)
        return tuple(Name(name, labels_from_rows(rows)) for name, rows in found.items())

    def pack(self, owner: str, namespace: str, items: Mapping[str, Content | None]) -> PackedItems:
        """Encode values for the table.

        Needs no connection, so that large values can be encoded before the transaction.
        """
        return [
            (key, content, self._codec.pack(content.data, *_about(owner, namespace, key)))
            if content is not None
            else (key, None, b"")
            for key, content in items.items()
        ]

    def put(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        namespace: str,
        items: PackedItems,
        *,
        labels: frozenset[str],
        ttl_s: float | None,
    ) -> None:
        """Set and remove keys in the caller's transaction, and charge the difference."""
        now, owner = self._wall(), quota_owner.owner
        freed = self._purge(connection, owner, now)
        query = (
            "SELECT charged, created_at, name_labels FROM memory_kv "
            "WHERE owner = ? AND namespace = ? AND key = ?"
        )
        before: dict[str, Any] = {
            key: connection.execute(query, (owner, namespace, key)).fetchone()
            for key, _, _ in items
        }
        charges = {
            key: size_charged(len(content.data), key) for key, content, _ in items if content
        }
        amount = sum(charges.values()) - sum(int(old[0]) for old in before.values() if old)
        self._charge(connection, quota_owner, amount - freed, now)
        for key, content, stored in items:
            if content is None:
                query = "DELETE FROM memory_kv WHERE owner = ? AND namespace = ? AND key = ?"
                connection.execute(query, (owner, namespace, key))
                continue
            old = before[key]
            connection.execute(
                "INSERT OR REPLACE INTO memory_kv VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    owner,
                    namespace,
                    key,
                    stored,
                    content.is_text,
                    charges[key],
                    labels_to_text(labels),
                    old[1] if old else now,
                    now,
                    None if ttl_s is None else now + ttl_s,
                    old[2] if old else labels_to_text(labels),
                ),
            )

    def clear(
        self, connection: Connection, quota_owner: QuotaOwner, namespace: str, prefix: str
    ) -> int:
        """Delete the entries with a key prefix. Returns how many there were."""
        key_range = KeyRange(prefix, with_values=False)
        keys = [one.key for one in self.list(connection, quota_owner.owner, namespace, key_range)]
        items = [(key, None, b"") for key in keys]
        self.put(connection, quota_owner, namespace, items, labels=frozenset(), ttl_s=None)
        return len(keys)

    def touch(
        self,
        connection: Connection,
        owner: str,
        namespace: str,
        chosen: str | Sequence[str],
        ttl_s: float,
    ) -> int:
        """Restart the time to live of entries that expire. Returns how many there were.

        `chosen` is a sequence of keys, or a key prefix.
        """
        now = self._wall()
        query = "UPDATE memory_kv SET expires_at = ? WHERE owner = ? AND namespace = ? AND "
        query += "expires_at > ?"
        about: tuple[Any, ...] = (now + ttl_s, owner, namespace, now)
        if not isinstance(chosen, str):
            query += " AND key = ? RETURNING key"
            return sum(len(list(connection.execute(query, (*about, key)))) for key in chosen)
        query, about = query + " AND key >= ?", (*about, chosen)
        if (end := prefix_end(chosen)) is not None:
            query, about = query + " AND key < ?", (*about, end)
        return len(list(connection.execute(query + " RETURNING key", about)))

    def sweep(self, connection: Connection, quota_owner: QuotaOwner, namespace: str) -> int:
        """Delete the expired entries. Returns how many there were."""
        query = (
            "DELETE FROM memory_kv WHERE expires_at <= ? AND owner = ? AND namespace = ? "
            "RETURNING charged"
        )
        about = (self._wall(), quota_owner.owner, namespace)
        freed = [int(row[0]) for row in connection.execute(query, about)]
        self._quotas.charge(connection, quota_owner, -sum(freed))
        return len(freed)

    # --- inside ------------------------------------------------------------------------------

    def _entry(self, owner: str, namespace: str, row: Sequence[Any]) -> KeyValue:
        key, stored, is_text, created_at, updated_at, expires_at, labels, named = row
        value = None
        if stored is not None:
            data = self._codec.unpack(stored, *_about(owner, namespace, key))
            value = Content(data, bool(is_text)).value
        return KeyValue(
            key,
            value,
            created_at,
            updated_at,
            expires_at,
            labels_from_text(labels),
            labels_from_text(named),
        )

    def _charge(
        self, connection: Connection, quota_owner: QuotaOwner, amount: int, now: float
    ) -> None:
        """Charge bytes; delete all expired rows of the owner before raising `QuotaExceeded`."""
        try:
            self._quotas.charge(connection, quota_owner, amount)
        except QuotaExceeded:
            if not (freed := self._purge(connection, quota_owner.owner, now, limit=-1)):
                raise
            self._quotas.charge(connection, quota_owner, amount - freed)

    def _purge(
        self, connection: Connection, owner: str, now: float, limit: int = _MAX_PURGED
    ) -> int:
        """Delete expired rows of an owner. Returns the bytes that they were charged."""
        query = (
            "DELETE FROM memory_kv WHERE rowid IN (SELECT rowid FROM memory_kv "
            "WHERE expires_at <= ? AND owner = ? LIMIT ?) RETURNING charged"
        )
        return sum(int(row[0]) for row in connection.execute(query, (now, owner, limit)))


def _about(owner: str, namespace: str, key: str) -> tuple[str, ...]:
    return owner, "kv", namespace, key
