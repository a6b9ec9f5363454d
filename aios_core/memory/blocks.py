"""The database tables of blocks and their pages.

Every function runs on the database's threads, in its caller's transaction, and works on
what is committed: concurrent changes of one block are applied one after the other.

A block's content is cut into pages of `page_bytes`, the last one shorter. Only the
pages that a change touches are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aios_core.errors import Conflict, InvalidRequest, NoSuchObject, QuotaExceeded
from aios_core.labels import labels_from_rows, labels_from_text, labels_to_text
from aios_core.memory.codec import Codec
from aios_core.memory.quotas import QuotaOwner, Quotas, size_charged
from aios_core.memory.records import Content
from aios_core.state import Connection

_COLUMNS: Final = (
    "id, name, size, is_text, page_bytes, labels, is_pinned, version, updated_at, name_labels"
)

_AT_ONCE: Final = 500  # numbers in one statement


@dataclass(frozen=True, slots=True)
class BlockRow:
    """The committed state of a block. `updated_at` is in seconds since 1970."""

    id: int
    name: str
    size: int
    is_text: bool
    page_bytes: int
    labels: frozenset[str]
    is_pinned: bool
    version: int
    updated_at: float
    name_labels: frozenset[str]  # of the agent that made the block; never changed

    @property
    def num_pages(self) -> int:
        return -(-self.size // self.page_bytes)

    def page_size(self, number: int) -> int:
        """Return the size of a page in bytes; the last page may be shorter."""
        return min(self.page_bytes, self.size - number * self.page_bytes)

    def pages_of(self, start: int, stop: int) -> range:
        """Return the numbers of the pages that hold the bytes `start` to `stop` (exclusive)."""
        stop = min(stop, self.size)
        if start >= stop:
            return range(0)
        return range(start // self.page_bytes, -(-stop // self.page_bytes))


@dataclass(frozen=True, slots=True)
class Change:
    """A block's row after a change, and the pages with new content."""

    row: BlockRow
    pages: Mapping[int, bytes]


Packed = Mapping[int, tuple[bytes, bytes]]  # by page number: plain bytes, stored bytes


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """The size of a page, and how much an agent may pin; both in bytes."""

    page_bytes: int
    pinned_bytes: int


class BlockTable:
    """Reads and changes blocks in the database. `wall` returns seconds since 1970."""

    def __init__(
        self, codec: Codec, quotas: Quotas, limits: BlockLimits, wall: Callable[[], float]
    ) -> None:
        self._codec = codec
        self._quotas = quotas
        self._limits = limits
        self._wall = wall

    # --- reading -----------------------------------------------------------------------------

    def all(self, connection: Connection, owner: str) -> list[BlockRow]:
        """Return all blocks of an agent."""
        query = f"SELECT {_COLUMNS} FROM memory_blocks WHERE owner = ?"  # noqa: S608 - constant
        return [_row(values) for values in connection.execute(query, (owner,))]

    def find(self, connection: Connection, owner: str, name: str) -> BlockRow | None:
        """Return a block, or None if there is none of that name."""
        query = f"SELECT {_COLUMNS} FROM memory_blocks WHERE owner = ? AND name = ?"  # noqa: S608
        values = connection.execute(query, (owner, name)).fetchone()
        return _row(values) if values else None

    def get(self, connection: Connection, owner: str, name: str) -> BlockRow:
        """Return a block. Raises `NoSuchObject`."""
        row = self.find(connection, owner, name)
        if row is None:
            raise no_such_block(name, self.all(connection, owner))
        return row

    def numbered(self, connection: Connection, numbers: Iterable[int]) -> list[BlockRow]:
        """Return the blocks of these numbers, those that there are, in their order."""
        wanted = sorted(numbers)
        found: list[BlockRow] = []
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT {_COLUMNS} FROM memory_blocks WHERE id IN ({marks}) ORDER BY id"  # noqa: S608
            found += [_row(values) for values in connection.execute(query, some)]
        return found

    def pages(
        self, connection: Connection, owner: str, row: BlockRow, numbers: Iterable[int]
    ) -> dict[int, bytes]:
        """Return the plain bytes of some pages of a block, by page number."""
        found = {}
        for number in numbers:
            query = "SELECT content FROM memory_pages WHERE block = ? AND number = ?"
            stored = connection.execute(query, (row.id, number)).fetchone()
            if stored is not None:  # None: the block is newer than `row`; the caller retries
                found[number] = self._codec.unpack(stored[0], *_about(owner, row.name, number))
        return found

    def content(self, connection: Connection, owner: str, row: BlockRow) -> bytes:
        """Return the whole content of a block."""
        return b"".join(self.pages(connection, owner, row, range(row.num_pages)).values())

    # --- changing ----------------------------------------------------------------------------

    def pack(self, owner: str, name: str, data: bytes) -> Packed:
        """Cut a content into pages and encode them.

        Needs no connection, so that large contents can be encoded before the transaction.
        """
        size = self._limits.page_bytes
        plain = {n: data[n * size : (n + 1) * size] for n in range(-(-len(data) // size))}
        return self._pack_pages(owner, name, plain)

    def alloc(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        *,
        is_text: bool,
        pin: bool,
        labels: frozenset[str],
    ) -> Change:
        """Insert an empty block. Raises `Conflict` if there is one of that name."""
        if (there := self.find(connection, quota_owner.owner, name)) is not None:
            refusal = Conflict(f"{quota_owner.owner} has a block {name!r} already")
            raise refusal.with_labels(there.name_labels)
        self._quotas.charge(connection, quota_owner, size_charged(0, name))
        row = self._insert(connection, quota_owner.owner, name, Content(b"", is_text), labels)
        return (
            self.pin(connection, quota_owner.owner, name, is_pinned=True)
            if pin
            else Change(row, {})
        )

    def write(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        content: Content,
        *,
        labels: frozenset[str],
        packed: Packed,
    ) -> Change:
        """Write a whole block; it replaces an existing one of that name."""
        owner = quota_owner.owner
        old = self.find(connection, owner, name)
        charged = size_charged(old.size, name) if old else 0
        self._quotas.charge(
            connection, quota_owner, size_charged(len(content.data), name) - charged
        )
        if old is None:
            row = self._insert(connection, owner, name, content, labels)
        else:
            row = self._update(
                connection,
                owner,
                replace(
                    old,
                    size=len(content.data),
                    is_text=content.is_text,
                    page_bytes=self._limits.page_bytes,
                    labels=labels,
                ),
            )
            connection.execute(
                "DELETE FROM memory_pages WHERE block = ? AND number >= ?", (row.id, row.num_pages)
            )
        return self._store(connection, row, packed)

    def append(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        content: Content,
        labels: frozenset[str],
    ) -> Change:
        """Append to a block; it is created if it does not exist."""
        old = self.find(connection, quota_owner.owner, name)
        if old is None:
            packed = self.pack(quota_owner.owner, name, content.data)
            return self.write(connection, quota_owner, name, content, labels=labels, packed=packed)
        _require_kind(old, content)
        return self._overlay(
            connection, quota_owner, old, at=old.size, data=content.data, labels=labels
        )

    def patch(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        name: str,
        content: Content,
        *,
        at: int,
        labels: frozenset[str],
    ) -> Change:
        """MemoryOverwrite part of a binary block, from byte `at` on. The block may grow."""
        old = self.get(connection, quota_owner.owner, name)
        _require_kind(old, content)
        if old.is_text:
            refusal = "at: only blocks of bytes can be written in parts; write the whole text"
            raise InvalidRequest(refusal).with_labels(old.labels)
        if at > old.size:
            refusal = f"at: got {at}; block {name!r} has {old.size} bytes"
            raise InvalidRequest(refusal).with_labels(old.labels)
        return self._overlay(connection, quota_owner, old, at=at, data=content.data, labels=labels)

    def pin(self, connection: Connection, owner: str, name: str, *, is_pinned: bool) -> Change:
        """Pin a block in RAM or unpin it. If pinned, the change holds all its pages."""
        row = replace(self.get(connection, owner, name), is_pinned=is_pinned)
        row = self._update(connection, owner, row)
        if not is_pinned:
            return Change(row, {})
        return Change(row, self.pages(connection, owner, row, range(row.num_pages)))

    def clear(self, connection: Connection, quota_owner: QuotaOwner, name: str) -> BlockRow:
        """Delete a block. Raises `NoSuchObject`."""
        row = self.get(connection, quota_owner.owner, name)
        connection.execute("DELETE FROM memory_blocks WHERE id = ?", (row.id,))
        self._quotas.charge(connection, quota_owner, -size_charged(row.size, name))
        return row

    def clear_all(
        self, connection: Connection, quota_owner: QuotaOwner, prefix: str
    ) -> list[BlockRow]:
        """Delete the blocks with a name prefix. Returns their rows."""
        rows = self.all(connection, quota_owner.owner)
        chosen = [row for row in rows if row.name.startswith(prefix)]
        for row in chosen:
            self.clear(connection, quota_owner, row.name)
        return chosen

    # --- inside ------------------------------------------------------------------------------

    def _pack_pages(self, owner: str, name: str, plain: Mapping[int, bytes]) -> Packed:
        return {
            number: (data, self._codec.pack(data, *_about(owner, name, number)))
            for number, data in plain.items()
        }

    def _overlay(
        self,
        connection: Connection,
        quota_owner: QuotaOwner,
        old: BlockRow,
        *,
        at: int,
        data: bytes,
        labels: frozenset[str],
    ) -> Change:
        """Write bytes over a block from `at` on, storing only the pages that they touch."""
        size = max(old.size, at + len(data))
        self._quotas.charge(connection, quota_owner, size - old.size)
        new = replace(old, size=size, labels=old.labels | labels)
        row = self._update(connection, quota_owner.owner, new)
        touched = row.pages_of(at, at + len(data))
        # Only the first and last page can keep some of their old bytes.
        before = self.pages(connection, quota_owner.owner, old, {*touched[:1], *touched[-1:]})
        plain = {}
        for number in touched:
            first = number * row.page_bytes
            page = before.get(number, b"")
            begin, end = max(at - first, 0), min(at + len(data) - first, row.page_bytes)
            piece = data[first + begin - at : first + end - at]
            plain[number] = page[:begin] + piece + page[end:]
        return self._store(connection, row, self._pack_pages(quota_owner.owner, old.name, plain))

    def _insert(
        self,
        connection: Connection,
        owner: str,
        name: str,
        content: Content,
        labels: frozenset[str],
    ) -> BlockRow:
        size, page_bytes, now = len(content.data), self._limits.page_bytes, self._wall()
        connection.execute(
            "INSERT INTO memory_blocks (owner, name, size, is_text, page_bytes, labels, is_pinned, "
            "version, updated_at, name_labels) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 1, ?7, ?6)",
            (owner, name, size, content.is_text, page_bytes, labels_to_text(labels), now),
        )
        block = connection.last_insert_rowid()
        return BlockRow(
            block, name, size, content.is_text, page_bytes, labels, False, 1, now, labels
        )

    def _update(self, connection: Connection, owner: str, row: BlockRow) -> BlockRow:
        """Store a changed row under the next version. Raises `QuotaExceeded` if it is pinned."""
        row = replace(row, version=row.version + 1, updated_at=self._wall())
        connection.execute(
            "UPDATE memory_blocks SET size = ?, is_text = ?, page_bytes = ?, labels = ?, "
            "is_pinned = ?, version = ?, updated_at = ? WHERE id = ?",
            (
                row.size,
                row.is_text,
                row.page_bytes,
                labels_to_text(row.labels),
                row.is_pinned,
                row.version,
                row.updated_at,
                row.id,
            ),
        )
        if row.is_pinned:
            self._require_room_to_pin(connection, owner, row)
        return row

    def _store(self, connection: Connection, row: BlockRow, packed: Packed) -> Change:
        connection.executemany(
            "INSERT OR REPLACE INTO memory_pages VALUES (?, ?, ?)",
            [(row.id, number, stored) for number, (_, stored) in packed.items()],
        )
        return Change(row, {number: plain for number, (plain, _) in packed.items()})

    def _require_room_to_pin(self, connection: Connection, owner: str, row: BlockRow) -> None:
        """Raise `QuotaExceeded` if this block and the other pinned ones take too much RAM."""
        query = (
            "SELECT name, size, name_labels, labels FROM memory_blocks "
            "WHERE owner = ? AND is_pinned AND id != ?"
        )
        others: Sequence[tuple[Any, ...]] = connection.execute(query, (owner, row.id)).fetchall()
        used = sum(int(one[1]) for one in others)
        if used + row.size > self._limits.pinned_bytes:
            names = ", ".join(f"{name} ({length:,} bytes)" for name, length, *_ in others)
            unpin = f"unpin one of: {names}; or " if names else ""
            refusal = QuotaExceeded(
                owner,
                "bytes of pinned memory",
                limit=self._limits.pinned_bytes,
                used=used,
                requested=row.size,
                hint=f"{unpin}raise memory.resident_bytes",
            )
            raise refusal.with_labels(labels_from_rows(one[2:] for one in others))


def no_such_block(name: str, known: Iterable[BlockRow]) -> NoSuchObject:
    """Build the error that lists the existing blocks, with the labels of their names."""
    rows = tuple(known)
    labels = frozenset[str]().union(*(row.name_labels for row in rows))
    return NoSuchObject("block", name, (row.name for row in rows)).with_labels(labels)


def _row(values: Sequence[Any]) -> BlockRow:
    number, name, size, is_text, page_bytes, labels, is_pinned, version, at, named = values
    return BlockRow(
        number,
        name,
        size,
        bool(is_text),
        page_bytes,
        labels_from_text(labels),
        bool(is_pinned),
        version,
        at,
        labels_from_text(named),
    )


def _about(owner: str, name: str, number: int) -> tuple[str, ...]:
    return owner, "block", name, str(number)


def _require_kind(row: BlockRow, content: Content) -> None:
    if row.is_text != content.is_text:
        kind, got = ("a text", "bytes") if row.is_text else ("bytes", "a text")
        refusal = f"value: got {got}; block {row.name!r} holds {kind}"
        raise InvalidRequest(refusal).with_labels(row.labels)
