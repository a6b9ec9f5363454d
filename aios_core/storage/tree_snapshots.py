"""Tree snapshots: which version of which file was where below a path.

A snapshot copies no content; retention keeps the versions that it refers to. Restoring it
makes new versions: files that were created later are deleted, the others get the content
that they had. A file that was moved out of the tree stays at its new path, with its
history; its old content is written to a new file at the old path.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aios_core.errors import Conflict, InvalidRequest, KernelBug, NoSuchObject, QuotaExceeded
from aios_core.labels import labels_of_all
from aios_core.state import Connection
from aios_core.storage.file_queries import labels_of
from aios_core.storage.files import FileTable
from aios_core.storage.paths import ROOT, inside, is_below
from aios_core.storage.records import ChangeKind, SavedTree, Stamp

_TREE: Final = """
    SELECT t.name, t.root, t.at, (SELECT count(*) FROM file_tree_entries e WHERE e.tree = t.id),
        t.labels
    FROM file_trees t
"""
_LIVE: Final = """
    SELECT path FROM files WHERE owner = ? AND is_live AND (path = ? OR path >= ? AND path < ?)
"""
_SAVE: Final = """
    INSERT INTO file_tree_entries (tree, file, version, path)
    SELECT ?, id, version, path FROM files
    WHERE owner = ? AND is_live AND (path = ? OR path >= ? AND path < ?)
"""


class TreeTable:
    """Saves, restores and lists tree snapshots. Runs in the caller's transaction."""

    def __init__(self, files: FileTable, max_snapshots: int) -> None:
        self._files = files
        self._max_snapshots = max_snapshots

    def save(
        self,
        connection: Connection,
        owner: str,
        root: str,
        name: str,
        at: float,
        *,
        labels: frozenset[str] = frozenset(),
    ) -> SavedTree:
        """Save the tree below a path. Raises `Conflict` if the name is taken."""
        known = self.listing(connection, owner, ROOT)
        if any(tree.name == name for tree in known):
            raise Conflict(f"a snapshot {name!r} exists; delete it, or choose another name")
        if len(known) >= self._max_snapshots:
            refusal = QuotaExceeded(
                f"agent {owner!r}",
                "snapshots",
                limit=self._max_snapshots,
                used=len(known),
                requested=1,
                hint=f"delete some, such as {known[0].name!r}" if known else "none are allowed",
            )
            raise refusal.with_labels(labels_of_all(known[:1]))
        connection.execute(
            "INSERT INTO file_trees (owner, name, root, at, labels) VALUES (?, ?, ?, ?, ?)",
            (owner, name, root, at, json.dumps(sorted(labels))),
        )
        connection.execute(
            _SAVE,
            (connection.last_insert_rowid(), owner, root, *inside(root)),
        )
        return SavedTree(name, root, at, connection.changes(), labels)

    def restore(
        self, connection: Connection, owner: str, root: str, name: str, stamp: Stamp
    ) -> int:
        """Restore the tree from a snapshot. Returns the number of new versions."""
        tree = self._get(connection, owner, root, name)
        wanted = connection.execute(
            "SELECT e.path, e.file, v.version, v.size, v.content, v.blob, v.labels "
            "FROM file_tree_entries e JOIN file_versions v "
            "ON v.file = e.file AND v.version = e.version WHERE e.tree = ? ORDER BY e.path",
            (tree,),
        ).fetchall()
        paths = {row[0] for row in wanted}
        made = 0
        live: list[Any] = connection.execute(
            _LIVE,
            (owner, root, *inside(root)),
        ).fetchall()
        for (path,) in live:
            if path not in paths:
                self._files.delete(connection, owner, path, stamp)
                made += 1
        for row in wanted:
            made += self._restore_file(connection, owner, row, stamp)
        return made

    def blobs_of(self, connection: Connection, owner: str, name: str) -> tuple[str, ...]:
        """Return the addresses of the blobs that a snapshot refers to."""
        rows: Any = connection.execute(
            "SELECT DISTINCT v.blob FROM file_trees t JOIN file_tree_entries e ON e.tree = t.id "
            "JOIN file_versions v ON v.file = e.file AND v.version = e.version "
            "WHERE t.owner = ? AND t.name = ? AND v.blob IS NOT NULL",
            (owner, name),
        )
        return tuple(blob for (blob,) in rows)

    def forget(self, connection: Connection, owner: str, root: str, name: str) -> None:
        """Delete a snapshot. Versions that only it retained are removed by their files' changes."""
        tree = self._get(connection, owner, root, name)
        connection.execute("DELETE FROM file_trees WHERE id = ?", (tree,))

    def listing(self, connection: Connection, owner: str, root: str) -> tuple[SavedTree, ...]:
        """Return the snapshots of trees at or below a path, the oldest first."""
        rows: Any = connection.execute(f"{_TREE} WHERE t.owner = ? ORDER BY t.id", (owner,))
        trees = (
            SavedTree(name, root, at, num_files, labels_of(labels))
            for name, root, at, num_files, labels in rows
        )
        return tuple(tree for tree in trees if is_below(tree.root, root))

    def _get(self, connection: Connection, owner: str, root: str, name: str) -> int:
        row = connection.execute(
            "SELECT id, root FROM file_trees WHERE owner = ? AND name = ?", (owner, name)
        ).fetchone()
        if row is None:
            known = self.listing(connection, owner, root)
            refusal = NoSuchObject("snapshot", name, [tree.name for tree in known])
            raise refusal.with_labels(labels_of_all(known))
        if row[1] != root:  # the access check was for `root`; the snapshot must not reach further
            raise InvalidRequest(
                f"snapshot {name!r} is not of {root}; give the path that it was made of"
            )
        return int(row[0])

    def _restore_file(
        self, connection: Connection, owner: str, row: tuple[Any, ...], stamp: Stamp
    ) -> int:
        path, file, version, size, stored, blob, labels = row
        content = self._files.opened((owner, file), version, size, stored, blob)
        if content is None:
            raise KernelBug(f"snapshot of {path}: version {version} has no content")
        now = self._files.find(connection, owner, path)
        if now is not None and now.is_live:
            if (now.id, now.version) == (file, version):
                return 0
            if self._files.read(connection, owner, path)[1].is_same(content):
                return 0
        restored = Stamp(stamp.author, stamp.at, stamp.labels | labels_of(labels))
        self._files.write(connection, owner, path, content, restored, change=ChangeKind.RESTORE)
        return 1
