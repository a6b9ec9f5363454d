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
from dataclasses import replace
from itertools import count
from typing import Any, Final

from aios_core.config import StorageConfig
from aios_core.errors import Conflict, InvalidRequest, KernelBug
from aios_core.state import BlobStore, Cipher, Connection
from aios_core.storage.content_store import Content, ContentStore
from aios_core.storage.file_queries import FileQueries, FileRow, about, labels_of, one_number
from aios_core.storage.paths import ancestors, inside, is_below, rebased
from aios_core.storage.quota_accounts import QuotaAccounts
from aios_core.storage.records import ChangeKind, FileVersion, Stamp

_UNHELD: Final = """
    SELECT version, charged, blob FROM file_versions v
    WHERE file = ? AND version < ? AND NOT EXISTS (
        SELECT 1 FROM file_tree_entries e WHERE e.file = v.file AND e.version = v.version
    ) ORDER BY version LIMIT ?
"""


class FileTable(FileQueries):
    """Reads and changes files and their versions. Runs in the caller's transaction."""

    def __init__(self, cipher: Cipher, blobs: BlobStore, limits: StorageConfig) -> None:
        super().__init__(ContentStore(cipher, blobs))
        self.accounts = QuotaAccounts(limits)
        self._max_versions = limits.max_versions

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
        encrypted = self.contents.encrypted(content, about(row.owner, row.id, row.version))
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
