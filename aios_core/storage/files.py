"""The database tables of files and their versions.

Nothing is changed in place: every change adds a version with the whole content. Deleting
adds a version without content, so that it can be undone; a restored file continues its
history. Only retention and `purge` remove versions.

Invariants, which `check` verifies: there is one file at a path; no file is below another
file; the rows of `files` agree with their newest versions; the recorded usage is the sum of
the versions. Uses no clock and no threads, and checks no access: the manager and the kernel
do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from aios_core.config import StorageConfig
from aios_core.errors import Conflict, InvalidRequest, KernelBug, NoSuchObject
from aios_core.state import BlobStore, Cipher, Connection
from aios_core.storage.content_store import Content, ContentStore
from aios_core.storage.paths import ancestors, inside, is_below, rebased
from aios_core.storage.quota_accounts import QuotaAccounts
from aios_core.storage.records import ChangeKind, FileChange, FileVersion, Stamp, StoredFile
from aios_core.storage.semantic_index import FileState

_MAX_SUGGESTIONS: Final = 20

_HISTORY: Final = """
    SELECT path, version, change, size, at, author, labels, seq FROM file_versions
    WHERE file = ? ORDER BY version DESC
"""
_READ: Final = """
    SELECT path, version, change, size, at, author, labels, seq, content, blob
    FROM file_versions WHERE file = ? AND version = ?
"""
_STAT: Final = """
    SELECT f.path, f.version, v.size, v.at, f.is_live, v.labels, f.name_labels
    FROM files f JOIN file_versions v ON v.seq = f.seq WHERE f.owner = ? AND f.path = ?
"""
_LIST: Final = """
    SELECT f.path, f.version, v.size, v.at, f.is_live, v.labels, f.name_labels
    FROM files f JOIN file_versions v ON v.seq = f.seq
    WHERE f.owner = ? AND (f.path = ? OR f.path >= ? AND f.path < ?)
        AND f.is_live = ? AND f.path > ?
    ORDER BY f.path LIMIT ?
"""
_ROW: Final = "id, owner, path, version, is_live, name_labels"
_LABELS: Final = """
    SELECT DISTINCT labels FROM file_versions WHERE owner = ?1
    UNION SELECT name_labels FROM files WHERE owner = ?1
"""
_UNHELD: Final = """
    SELECT version, charged, blob FROM file_versions v
    WHERE file = ? AND version < ? AND NOT EXISTS (
        SELECT 1 FROM file_tree_entries e WHERE e.file = v.file AND e.version = v.version
    ) ORDER BY version LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of `files`."""

    id: int
    owner: str
    path: str
    version: int
    is_live: bool
    name_labels: frozenset[str] = frozenset()  # of the agents that made and moved it

    @property
    def live_version(self) -> int:
        """The version that `if_version` is compared with: 0 if the file is deleted."""
        return self.version if self.is_live else 0


class FileTable:
    """Reads and changes files and their versions. Runs in the caller's transaction."""

    def __init__(self, cipher: Cipher, blobs: BlobStore, limits: StorageConfig) -> None:
        self.contents = ContentStore(cipher, blobs)
        self.accounts = QuotaAccounts(limits)
        self._max_versions = limits.max_versions

    # --- reading -----------------------------------------------------------------------------

    def find(self, connection: Connection, owner: str, path: str) -> FileRow | None:
        """Return the file at a path, also a deleted one; None if there is none."""
        row = connection.execute(
            f"SELECT {_ROW} FROM files WHERE owner = ? AND path = ?",  # noqa: S608 - constant
            (owner, path),
        ).fetchone()
        return _file_row(row) if row else None

    def get(self, connection: Connection, owner: str, path: str) -> FileRow:
        """Return the live file at a path. Raises `NoSuchObject`, which lists its neighbors."""
        row = self.find(connection, owner, path)
        if row is None or not row.is_live:
            raise self._missing(connection, owner, path)
        return row

    def read(
        self, connection: Connection, owner: str, path: str, version: int | None = None
    ) -> tuple[FileVersion, Content]:
        """Return a version of a file and its content; None: the newest version."""
        if version is None:
            row = self.get(connection, owner, path)
            return self._read(connection, row, row.version)
        found = self.find(connection, owner, path)
        if found is None:
            raise self._missing(connection, owner, path)
        return self._read(connection, found, version)

    def opened(
        self, file: tuple[str, int], version: int, size: int, stored: Any, blob: Any
    ) -> Content | None:
        """Decode the content in the columns of a version; None: the version is a deletion."""
        return self.contents.decrypted(size, stored, blob, _about(*file, version))

    def blobs_of(
        self, connection: Connection, owner: str, path: str, version: int
    ) -> tuple[str, ...]:
        """Return the address of a version's blob, if it has one."""
        rows: Any = connection.execute(
            "SELECT v.blob FROM files f JOIN file_versions v ON v.file = f.id "
            "WHERE f.owner = ? AND f.path = ? AND v.version = ? AND v.blob IS NOT NULL",
            (owner, path, version),
        )
        return tuple(blob for (blob,) in rows)

    def read_state(self, connection: Connection, state: FileState) -> Content | None:
        """Return the content of a state of the feed; None: the file has changed since."""
        row = connection.execute(
            f"SELECT {_ROW} FROM files WHERE id = ? AND seq = ?",  # noqa: S608 - constant
            (state.file, state.seq),
        ).fetchone()
        if row is None or not row[4]:
            return None
        return self._read(connection, _file_row(row), state.version)[1]

    def history(self, connection: Connection, owner: str, path: str) -> tuple[FileVersion, ...]:
        """Return the stored versions of a file, the newest first."""
        row = self.find(connection, owner, path)
        if row is None:
            raise self._missing(connection, owner, path)
        rows = connection.execute(_HISTORY, (row.id,))
        return tuple(_file_version(one, row.name_labels) for one in rows)

    def stat(self, connection: Connection, owner: str, path: str) -> StoredFile:
        """Return the current state of a file, also of a deleted one."""
        row = connection.execute(_STAT, (owner, path)).fetchone()
        if row is None:
            raise self._missing(connection, owner, path)
        return _stored_file(owner, row)

    def listing(
        self,
        connection: Connection,
        owner: str,
        root: str,
        *,
        deleted: bool,
        after: str | None,
        limit: int,
    ) -> tuple[StoredFile, ...]:
        """Return the files at or below a path, sorted by path."""
        values = (owner, root, *inside(root), int(not deleted), after or "", limit)
        rows = connection.execute(_LIST, values)
        return tuple(_stored_file(owner, row) for row in rows)

    def changes(
        self, connection: Connection, owner: str, root: str, *, after: int, limit: int
    ) -> tuple[FileChange, ...]:
        """Return the versions made at or below a path since change number `after`."""
        rows = connection.execute(
            "SELECT v.seq, v.owner, v.path, v.change, v.version, v.at, v.labels, f.name_labels "
            "FROM file_versions v JOIN files f ON f.id = v.file WHERE v.owner = ? AND v.seq > ? "
            "AND (v.path = ? OR v.path >= ? AND v.path < ?) ORDER BY v.seq LIMIT ?",
            (owner, after, root, *inside(root), limit),
        )
        return tuple(
            FileChange(
                seq, of, path, ChangeKind(change), version, at, labels_of(own), labels_of(names)
            )
            for seq, of, path, change, version, at, own, names in rows
        )

    def labels_of_owner(self, connection: Connection, owner: str) -> frozenset[str]:
        """Return the labels of all that an owner keeps, of contents and names."""
        rows = connection.execute(_LABELS, (owner,))
        return frozenset[str]().union(*(labels_of(row[0]) for row in rows))

    def last_change(self, connection: Connection, owner: str) -> int:
        """Return the number of the owner's last change; 0: there was none."""
        query = "SELECT coalesce(max(seq), 0) FROM file_versions WHERE owner = ?"
        return one_number(connection, query, (owner,))

    def states(self, connection: Connection, after: int, limit: int) -> tuple[FileState, ...]:
        """Return the newest states of the files that changed since change number `after`."""
        rows = connection.execute(
            "SELECT f.seq, f.id, f.owner, f.path, f.version, v.size, f.is_live, v.labels, "
            "f.name_labels "
            "FROM files f JOIN file_versions v ON v.seq = f.seq WHERE f.seq > ? "
            "ORDER BY f.seq LIMIT ?",
            (after, limit),
        )
        return tuple(
            FileState(
                seq, file, owner, path, version, size, bool(live), labels_of(own) | labels_of(names)
            )
            for seq, file, owner, path, version, size, live, own, names in rows
        )

    # --- changing ----------------------------------------------------------------------------

    def write(
        self,
        connection: Connection,
        owner: str,
        path: str,
        content: Content,
        stamp: Stamp,
        *,
        change: ChangeKind = ChangeKind.WRITE,
        if_version: int | None = None,
    ) -> FileVersion:
        """Add a version with a content; create or restore the file if necessary.

        Raises `Conflict` if `if_version` is not the newest version, or if a file is above the
        path or files are below it.
        """
        row = self.find(connection, owner, path)
        _require_version(path, if_version, row.live_version if row else 0)
        if row is None or not row.is_live:
            self._require_place(connection, owner, path)
            change = ChangeKind.CREATE if change is ChangeKind.WRITE else change
        if row is None:
            row = self._new_file(connection, owner, path, stamp.labels)
        return self._add(connection, (row, path), change, content, stamp)

    def delete(
        self,
        connection: Connection,
        owner: str,
        path: str,
        stamp: Stamp,
        *,
        if_version: int | None = None,
    ) -> FileVersion:
        """Delete a file: add a version without content."""
        row = self.get(connection, owner, path)
        _require_version(path, if_version, row.version)
        return self._add(connection, (row, path), ChangeKind.DELETE, None, stamp)

    def rollback(
        self,
        connection: Connection,
        owner: str,
        path: str,
        version: int,
        stamp: Stamp,
        *,
        if_version: int | None = None,
    ) -> FileVersion:
        """Add a version with the content of an older one. Restores a deleted file too."""
        row = self.find(connection, owner, path)
        if row is None:
            raise self._missing(connection, owner, path)
        _require_version(path, if_version, row.live_version)
        old, content = self._read(connection, row, version)
        if not row.is_live:
            self._require_place(connection, owner, path)
        stamp = Stamp(stamp.author, stamp.at, stamp.labels | old.labels)
        return self._add(connection, (row, path), ChangeKind.ROLLBACK, content, stamp)

    def move(
        self,
        connection: Connection,
        owner: str,
        path: str,
        to: str,
        stamp: Stamp,
        *,
        if_version: int | None = None,
    ) -> FileVersion:
        """Move a file, or each file below a directory. Returns the last version made."""
        row = self.find(connection, owner, path)
        if row is not None and row.is_live:
            _require_version(path, if_version, row.version)
            return self._move(connection, row, to, stamp)
        rows = self._live_below(connection, owner, path)
        if not rows:
            raise self._missing(connection, owner, path)
        if if_version is not None:
            raise InvalidRequest(f"if_version: {path} is a directory, which has no versions")
        if is_below(to, path):
            raise Conflict(f"{path} cannot be moved to {to}, which is inside it")
        made = [self._move(connection, row, rebased(row.path, path, to), stamp) for row in rows]
        return made[-1]

    def purge(self, connection: Connection, owner: str, path: str, before: int | None) -> int:
        """Remove a deleted file, or the versions of a file before `before`. Returns bytes freed.

        The versions of a snapshot are kept in the second case, but not in the first.
        """
        row = self.find(connection, owner, path)
        if row is None:
            raise self._missing(connection, owner, path)
        if before is not None:
            freed = self._drop_old(connection, row, min(before, row.version), limit=-1)
            self.accounts.charge(connection, owner, num_bytes=-freed, num_files=0)
            return freed
        if row.is_live:
            raise Conflict(f"{path} is not deleted; delete it before you purge its history")
        freed = 0
        versions: list[Any] = connection.execute(
            "SELECT charged, blob FROM file_versions WHERE file = ?", (row.id,)
        ).fetchall()
        for charged, blob in versions:
            freed += charged
            self.contents.unlink(connection, blob)
        connection.execute("DELETE FROM file_tree_entries WHERE file = ?", (row.id,))
        connection.execute("DELETE FROM file_versions WHERE file = ?", (row.id,))
        # The row stays without a path, so that the index sees the purge as a change.
        stub = FileRow(row.id, owner, "", row.version + 1, is_live=False)
        seq = self._insert(connection, stub, ChangeKind.PURGE, None, Stamp("", 0.0), charged=0)
        connection.execute(
            "UPDATE files SET path = NULL, version = ?, seq = ?, name_labels = '[]' WHERE id = ?",
            (stub.version, seq, row.id),
        )
        self.accounts.charge(connection, owner, num_bytes=-freed, num_files=-1)
        return freed

    # --- invariants --------------------------------------------------------------------------

    def check(self, connection: Connection) -> None:
        """Raise `KernelBug` unless every invariant holds. Reads everything."""
        for what, query in _INVARIANTS.items():
            if found := connection.execute(query).fetchone():
                raise KernelBug(f"stored files: {what}: {found!r}")

    # --- inside ------------------------------------------------------------------------------

    def _read(
        self, connection: Connection, row: FileRow, version: int
    ) -> tuple[FileVersion, Content]:
        found: Any = connection.execute(_READ, (row.id, version)).fetchone()
        content = None
        if found is not None:
            content = self.opened((row.owner, row.id), version, found[3], *found[-2:])
        if content is None:
            kept = connection.execute(
                "SELECT version FROM file_versions WHERE file = ? AND size >= 0 "
                "AND change != 'delete' ORDER BY version",
                (row.id,),
            )
            raise NoSuchObject("version", version, [one[0] for one in kept], of=row.path)
        return _file_version(found[:-2], row.name_labels), content

    def _live_below(self, connection: Connection, owner: str, root: str) -> list[FileRow]:
        rows = connection.execute(
            f"SELECT {_ROW} FROM files "  # noqa: S608 - constant
            "WHERE owner = ? AND path >= ? AND path < ? AND is_live ORDER BY path",
            (owner, *inside(root)),
        )
        return list(map(_file_row, rows))

    def _missing(self, connection: Connection, owner: str, path: str) -> NoSuchObject:
        directory = path.rpartition("/")[0] or "/"
        near = self.listing(
            connection, owner, directory, deleted=False, after=None, limit=_MAX_SUGGESTIONS
        )
        labels = frozenset[str]().union(*(file.name_labels for file in near))
        return NoSuchObject("file", path, [file.path for file in near]).with_labels(labels)

    def _require_place(self, connection: Connection, owner: str, path: str) -> None:
        """Raise `Conflict` if a file is above the path or files are below it."""
        for above in ancestors(path):
            row = self.find(connection, owner, above)
            if row is not None and row.is_live:
                refusal = Conflict(f"{path} cannot be created: {above} is a file")
                raise refusal.with_labels(row.name_labels)
        low, high = inside(path)
        below = connection.execute(
            "SELECT path, name_labels FROM files "
            "WHERE owner = ? AND path >= ? AND path < ? AND is_live LIMIT 1",
            (owner, low, high),
        ).fetchone()
        if below is not None:
            refusal = Conflict(f"{path} cannot be created: it is a directory, with {below[0]}")
            raise refusal.with_labels(labels_of(str(below[1])))

    def _new_file(
        self, connection: Connection, owner: str, path: str, labels: frozenset[str]
    ) -> FileRow:
        connection.execute(
            "INSERT INTO files (owner, path, version, seq, is_live, name_labels) "
            "VALUES (?, ?, 0, 0, 0, ?)",
            (owner, path, json.dumps(sorted(labels))),
        )
        number = connection.last_insert_rowid()
        return FileRow(number, owner, path, 0, is_live=False, name_labels=labels)

    def _move(self, connection: Connection, row: FileRow, to: str, stamp: Stamp) -> FileVersion:
        there = self.find(connection, row.owner, to)
        if there is not None and there.is_live:
            refusal = Conflict(f"{to} exists, at version {there.version}")
            raise refusal.with_labels(there.name_labels)
        self._require_place(connection, row.owner, to)
        if there is not None:
            self._step_aside(connection, there)
        row = replace(row, name_labels=row.name_labels | stamp.labels)
        connection.execute(
            "UPDATE files SET name_labels = ? WHERE id = ?",
            (json.dumps(sorted(row.name_labels)), row.id),
        )
        old, content = self._read(connection, row, row.version)
        stamp = Stamp(stamp.author, stamp.at, stamp.labels | old.labels)
        return self._add(connection, (row, to), ChangeKind.MOVE, content, stamp)

    def _step_aside(self, connection: Connection, row: FileRow) -> None:
        """Rename a deleted file to "path~1", so that another one can take its path."""
        for number in count(1):
            aside = f"{row.path}~{number}"
            if self.find(connection, row.owner, aside) is None:
                connection.execute("UPDATE files SET path = ? WHERE id = ?", (aside, row.id))
                return

    def _add(
        self,
        connection: Connection,
        place: tuple[FileRow, str],
        change: ChangeKind,
        content: Content | None,
        stamp: Stamp,
    ) -> FileVersion:
        """Add the next version of a file; apply retention, quotas and blob references."""
        row, path = place
        size = content.size if content else 0
        charged = 0 if change is ChangeKind.MOVE else size  # a move shares the bytes before it
        new = FileRow(row.id, row.owner, path, row.version + 1, is_live=content is not None)
        seq = self._insert(connection, new, change, content, stamp, charged=charged)
        connection.execute(
            "UPDATE files SET path = ?, version = ?, seq = ?, is_live = ? WHERE id = ?",
            (path, new.version, seq, int(new.is_live), row.id),
        )
        freed = 0
        if new.version > self._max_versions:
            query = "SELECT count(*) FROM file_versions WHERE file = ?"
            excess = one_number(connection, query, (row.id,)) - self._max_versions
            freed = self._drop_old(connection, row, new.version, limit=max(0, excess))
        self.accounts.charge(
            connection,
            row.owner,
            num_bytes=charged - freed,
            num_files=1 if new.version == 1 else 0,
        )
        self.contents.link(connection, content, is_moved=change is ChangeKind.MOVE)
        return FileVersion(
            path,
            new.version,
            change,
            size,
            stamp.at,
            stamp.author,
            stamp.labels,
            seq,
            row.name_labels,
        )

    def _insert(
        self,
        connection: Connection,
        row: FileRow,
        change: ChangeKind,
        content: Content | None,
        stamp: Stamp,
        *,
        charged: int,
    ) -> int:
        encrypted = self.contents.encrypted(content, _about(row.owner, row.id, row.version))
        connection.execute(
            "INSERT INTO file_versions (owner, file, version, change, path, size, charged, "
            "content, blob, labels, author, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.owner,
                row.id,
                row.version,
                change.value,
                row.path,
                content.size if content else 0,
                charged,
                encrypted,
                content.blob if content else None,
                json.dumps(sorted(stamp.labels)),
                stamp.author,
                stamp.at,
            ),
        )
        return connection.last_insert_rowid()

    def _drop_old(self, connection: Connection, row: FileRow, before: int, *, limit: int) -> int:
        """Remove up to `limit` (-1: all) of the versions before `before`. Returns bytes freed.

        Versions of snapshots are kept. If the version after a removed one is a move, it takes
        over the charge, as it shares the bytes.
        """
        freed = 0
        dropped: list[Any] = connection.execute(_UNHELD, (row.id, before, limit)).fetchall()
        for version, charged, blob in dropped:
            connection.execute(
                "DELETE FROM file_versions WHERE file = ? AND version = ?", (row.id, version)
            )
            self.contents.unlink(connection, blob)
            heir: Any = connection.execute(
                "SELECT version, change, charged FROM file_versions "
                "WHERE file = ? AND version > ? ORDER BY version LIMIT 1",
                (row.id, version),
            ).fetchone()
            if charged and heir and heir[1] == ChangeKind.MOVE and not heir[2]:
                connection.execute(
                    "UPDATE file_versions SET charged = ? WHERE file = ? AND version = ?",
                    (charged, row.id, heir[0]),
                )
            else:
                freed += charged
        return freed


_INVARIANTS: Final = {
    "a file disagrees with its newest version": """
        SELECT f.id, f.version, v.version, v.change FROM files f
        LEFT JOIN file_versions v ON v.seq = f.seq
        WHERE v.file IS NOT f.id OR v.version IS NOT f.version
           OR f.is_live = (v.content IS NULL AND v.blob IS NULL)
    """,
    "a version is newer than the newest": """
        SELECT v.file, v.version FROM file_versions v JOIN files f ON f.id = v.file
        WHERE v.version > f.version OR v.owner != f.owner
    """,
    "a file lies below a file": """
        SELECT a.path, b.path FROM files a JOIN files b ON a.owner = b.owner
        AND b.path >= a.path || '/' AND b.path < a.path || '0' WHERE a.is_live AND b.is_live
    """,
    "the recorded usage is not the sum of the versions": """
        SELECT u.owner, u.bytes, u.files, s.bytes, s.files FROM file_usage u LEFT JOIN (
            SELECT f.owner, sum(v.charged) AS bytes, count(DISTINCT f.id) AS files
            FROM files f JOIN file_versions v ON v.file = f.id
            WHERE f.path IS NOT NULL GROUP BY f.owner
        ) s ON s.owner = u.owner
        WHERE u.bytes != coalesce(s.bytes, 0) OR u.files != coalesce(s.files, 0)
    """,
    "a blob has no row": """
        SELECT v.file, v.version, v.blob FROM file_versions v
        LEFT JOIN blobs b ON b.address = v.blob
        WHERE v.blob IS NOT NULL AND coalesce(b.refs, 0) = 0
    """,
    "a snapshot refers to a removed version": """
        SELECT e.tree, e.file, e.version FROM file_tree_entries e
        LEFT JOIN file_versions v ON v.file = e.file AND v.version = e.version
        WHERE v.seq IS NULL
    """,
}


def _require_version(path: str, expected: int | None, newest: int) -> None:
    if expected is None or expected == newest:
        return
    now = f"is at version {newest}" if newest else "does not exist"
    raise Conflict(f"{path} {now}, but if_version is {expected}; read it again")


def _about(owner: str, file: int, version: int) -> tuple[str, str, str]:
    """Return the place of an encrypted content, to which it is bound."""
    return owner, str(file), str(version)


def _file_row(row: Sequence[Any]) -> FileRow:
    file, owner, path, version, is_live, names = row
    return FileRow(file, owner, path, version, bool(is_live), labels_of(names))


def _stored_file(owner: str, row: Sequence[Any]) -> StoredFile:
    path, version, size, at, is_live, *labels = row
    return StoredFile(path, owner, version, size, at, not is_live, *map(labels_of, labels))


def _file_version(row: Sequence[Any], names: frozenset[str]) -> FileVersion:
    path, version, change, size, at, author, stored, seq = row
    labels = labels_of(stored)
    return FileVersion(path, version, ChangeKind(change), size, at, author, labels, seq, names)


def one_number(connection: Connection, query: str, values: Sequence[Any]) -> int:
    """Return the whole number that a query results in."""
    row: Any = connection.execute(query, values).fetchone()
    return int(row[0])


def labels_of(stored: str) -> frozenset[str]:
    """Decode stored labels."""
    return frozenset(json.loads(stored)) if stored != "[]" else frozenset()
