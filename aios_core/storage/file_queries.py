"""Read files and their versions from the database tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import NoSuchObject
from aios_core.state import Connection
from aios_core.storage.content_store import Content, ContentStore
from aios_core.storage.paths import inside
from aios_core.storage.records import ChangeKind, FileChange, FileVersion, StoredFile
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


class FileQueries:
    """Reads files and their versions. Runs in the caller's transaction."""

    def __init__(self, contents: ContentStore) -> None:
        self.contents = contents

    # --- reading -----------------------------------------------------------------------------

    def find(self, connection: Connection, owner: str, path: str) -> FileRow | None:
        """Return the file at a path, also a deleted one; None if there is none."""
        row = connection.execute(
            f"SELECT {_ROW} FROM files WHERE owner = ? AND path = ?",  # noqa: S608 - constant
            (owner, path),
        ).fetchone()
        return file_row(row) if row else None

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
        return self.contents.decrypted(size, stored, blob, about(*file, version))

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
        return self._read(connection, file_row(row), state.version)[1]

    def history(self, connection: Connection, owner: str, path: str) -> tuple[FileVersion, ...]:
        """Return the stored versions of a file, the newest first."""
        row = self.find(connection, owner, path)
        if row is None:
            raise self._missing(connection, owner, path)
        rows = connection.execute(_HISTORY, (row.id,))
        return tuple(file_version(one, row.name_labels) for one in rows)

    def stat(self, connection: Connection, owner: str, path: str) -> StoredFile:
        """Return the current state of a file, also of a deleted one."""
        row = connection.execute(_STAT, (owner, path)).fetchone()
        if row is None:
            raise self._missing(connection, owner, path)
        return stored_file(owner, row)

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
        return tuple(stored_file(owner, row) for row in rows)

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
        return file_version(found[:-2], row.name_labels), content

    def _live_below(self, connection: Connection, owner: str, root: str) -> list[FileRow]:
        rows = connection.execute(
            f"SELECT {_ROW} FROM files "  # noqa: S608 - constant
            "WHERE owner = ? AND path >= ? AND path < ? AND is_live ORDER BY path",
            (owner, *inside(root)),
        )
        return list(map(file_row, rows))

    def _missing(self, connection: Connection, owner: str, path: str) -> NoSuchObject:
        directory = path.rpartition("/")[0] or "/"
        near = self.listing(
            connection, owner, directory, deleted=False, after=None, limit=_MAX_SUGGESTIONS
        )
        labels = frozenset[str]().union(*(file.name_labels for file in near))
        return NoSuchObject("file", path, [file.path for file in near]).with_labels(labels)


def about(owner: str, file: int, version: int) -> tuple[str, str, str]:
    """Return the place of an encrypted content, to which it is bound."""
    return owner, str(file), str(version)


def file_row(row: Sequence[Any]) -> FileRow:
    file, owner, path, version, is_live, names = row
    return FileRow(file, owner, path, version, bool(is_live), labels_of(names))


def stored_file(owner: str, row: Sequence[Any]) -> StoredFile:
    path, version, size, at, is_live, *labels = row
    return StoredFile(path, owner, version, size, at, not is_live, *map(labels_of, labels))


def file_version(row: Sequence[Any], names: frozenset[str]) -> FileVersion:
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
