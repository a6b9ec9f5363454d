"""Shared mounts: host directories that every agent sees below /mnt.

Files in a mount are unowned and have no versions. The labels of what an agent writes there
are stored. Every content that is read from a mount also has the label "mount:NAME", since
programs outside the kernel may have written it. Files with names that are not canonical
(see `paths`) are not listed, because no request could reach them.

Every function blocks and runs on the storage threads.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aios_core.config import MountConfig
from aios_core.errors import (
    BackendError,
    ConfigError,
    Conflict,
    InvalidPath,
    NoSuchObject,
    QuotaExceeded,
)
from aios_core.state import Connection, Database
from aios_core.storage.paths import MOUNTS, in_mount, is_canonical_name
from aios_core.storage.records import FileContent, StoredFile
from aios_core.storage.rooted_dir import RootedDir

_MAX_WALKED: Final = 100_000  # files in one listing


class Mounts:
    """Reads and changes the files of the shared mounts.

    The methods take the database that stores the labels. Thread-safe.
    """

    def __init__(self, mounts: Mapping[str, MountConfig], max_file_bytes: int) -> None:
        self._mounts = dict(mounts)
        self._max_file_bytes = max_file_bytes
        self._roots: dict[str, RootedDir] = {}
        self._lock = threading.Lock()  # guards _roots

    def require(self) -> None:
        """Raise `ConfigError` unless each mount has a valid name and an existing directory."""
        for name, config in self._mounts.items():
            key = f"storage.mounts.{name}"
            if "/" in name or not is_canonical_name(name):
                raise ConfigError(key, name, "a valid file name, without slashes")
            if not os.path.isdir(os.path.expanduser(config.directory)):  # noqa: PTH111, PTH112 - a text
                raise ConfigError(f"{key}.directory", config.directory, "a directory that exists")

    def close(self) -> None:
        """Close the host directories. Idempotent."""
        with self._lock:
            for root in self._roots.values():
                root.close()
            self._roots.clear()

    def is_writable(self, path: str) -> bool:
        """Return whether agents may change the mount that a path is in. Raises `NoSuchObject`."""
        return self._config(self._split(path)[0]).mode == "write"

    def exists(self, path: str) -> bool:
        """Return whether something is at a path."""
        name, inner = self._split(path)
        try:
            os.close(self._root(name).open(inner, os.O_RDONLY))
        except NoSuchObject:
            return False
        return True

    def read(self, database: Database, path: str) -> FileContent:
        """Read a file."""
        name, inner = self._split(path)
        with _whole_paths(name):
            data, _ = self._root(name).read(inner, self._max_file_bytes)
        self._require_size(len(data), path)
        return FileContent(data, 0, self.labels(database, path))

    def stat(self, database: Database, path: str) -> StoredFile:
        """Return the metadata of a file."""
        name, inner = self._split(path)
        with _whole_paths(name):
            descriptor = self._root(name).open(inner, os.O_RDONLY)
        try:
            facts = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise InvalidPath(path, "is a directory")
        return _stored(path, facts, self.labels(database, path))

    def listing(
        self, database: Database, path: str, after: str | None, limit: int
    ) -> list[StoredFile]:
        """Return the files at or below a path, sorted; for "/mnt", those of all mounts."""
        names = sorted(self._mounts) if path == MOUNTS else [self._split(path)[0]]
        found: list[StoredFile] = []
        for name in names:
            inner, known = "" if path == MOUNTS else self._split(path)[1], _known(database, name)
            for below, facts in self._root(name).walk(inner):
                if all(map(is_canonical_name, below.split("/"))):
                    labels = frozenset({f"mount:{name}"}) | known.get(below, frozenset())
                    found.append(_stored(f"{MOUNTS}/{name}/{below}", facts, labels))
                if len(found) > _MAX_WALKED:
                    reason = f"has more than {_MAX_WALKED:,} files; list a directory below it"
                    raise InvalidPath(path, reason)
        found.sort(key=lambda file: file.path)
        return [file for file in found if after is None or file.path > after][:limit]

    def write(
        self,
        database: Database,
        path: str,
        data: bytes,
        labels: frozenset[str],
        *,
        is_new: bool = False,
    ) -> StoredFile:
        """Replace or create a file, atomically."""
        self._require_size(len(data), path)
        name, inner = self._split(path)
        self._label(database, path, labels | self.known_labels(database, path))
        try:
            with _whole_paths(name):
                self._root(name).write(inner, data, is_new=is_new)
        except FileExistsError as exc:
            raise Conflict(f"{path} exists") from exc
        if not is_new:
            self._label(database, path, labels)  # the old content, with its labels, is replaced
        return self.stat(database, path)

    def append(
        self, database: Database, path: str, data: bytes, labels: frozenset[str]
    ) -> StoredFile:
        """Append to a file; it is created if it does not exist."""
        name, inner = self._split(path)
        self._require_size(len(data), path)
        self._label(database, path, labels | self.known_labels(database, path))
        with _whole_paths(name):
            self._root(name).append(inner, data)
        return self.stat(database, path)

    def delete(self, path: str) -> None:
        """Delete a file."""
        name, inner = self._split(path)
        with _whole_paths(name):
            self._root(name).delete(inner)

    def move(self, database: Database, path: str, to: str, labels: frozenset[str]) -> StoredFile:
        """Move a file within its mount."""
        (name, inner), (target, new) = self._split(path), self._split(to)
        if name != target:
            reason = f"is in another mount than {path}; read one file and write the other instead"
            raise InvalidPath(to, reason)
        self._label(database, to, labels | self.known_labels(database, path), is_named=True)
        try:
            with _whole_paths(name):
                self._root(name).move(inner, new)
        except FileExistsError as exc:
            raise Conflict(f"{to} exists") from exc
        return self.stat(database, to)

    def labels(self, database: Database, path: str) -> frozenset[str]:
        """Return the labels of a file: those that agents wrote it with, and "mount:NAME"."""
        return self.known_labels(database, path) | {f"mount:{self._split(path)[0]}"}

    def known_labels(self, database: Database, path: str) -> frozenset[str]:
        """Return the labels that agents wrote a file with."""
        key = self._split(path)
        row = database.read(
            lambda c: c.execute(
                "SELECT labels FROM mount_labels WHERE mount = ? AND path = ?", key
            ).fetchone()
        )
        return frozenset(json.loads(row[0])) if row else frozenset()

    # --- inside ------------------------------------------------------------------------------

    def _split(self, path: str) -> tuple[str, str]:
        place = in_mount(path)
        if place is None:
            raise InvalidPath(path, f"is not in a mount; paths in mounts are {MOUNTS}/NAME/PATH")
        return place

    def _config(self, name: str) -> MountConfig:
        if name not in self._mounts:
            raise NoSuchObject("mount", name, self._mounts)
        return self._mounts[name]

    def _root(self, name: str) -> RootedDir:
        config = self._config(name)
        with self._lock:
            if name not in self._roots:
                try:
                    self._roots[name] = RootedDir(os.path.expanduser(config.directory))  # noqa: PTH111 - a text
                except OSError as exc:
                    raise BackendError(f"mount {name!r}: {config.directory}: {exc}") from exc
            return self._roots[name]

    def _label(
        self, database: Database, path: str, labels: frozenset[str], *, is_named: bool = False
    ) -> None:
        """Store the labels of a file before its content, so that a crash leaves too many of them.

        With `is_named`, they become labels of the name too, as they do for a new file.
        """
        key, stored = self._split(path), json.dumps(sorted(labels))

        def remember(connection: Connection) -> None:
            connection.execute(_LABEL, (*key, stored, is_named))
            connection.execute(
                "DELETE FROM mount_labels WHERE mount = ? AND path = ? "
                "AND labels = '[]' AND name_labels = '[]'",
                key,
            )

        if labels or self.known_labels(database, path):
            database.write(remember)

    def _require_size(self, size: int, path: str) -> None:
        if size > self._max_file_bytes:
            raise too_large(path, size, self._max_file_bytes)


_LABEL: Final = """
    INSERT INTO mount_labels (mount, path, labels, name_labels) VALUES (?1, ?2, ?3, ?3)
    ON CONFLICT (mount, path) DO UPDATE SET labels = excluded.labels,
        name_labels = CASE WHEN ?4 THEN excluded.name_labels ELSE name_labels END
"""


def _known(database: Database, mount: str) -> dict[str, frozenset[str]]:
    """Return the stored labels of a mount's files and their names, by path inside the mount."""
    query = "SELECT path, labels, name_labels FROM mount_labels WHERE mount = ?"
    rows = database.read(lambda c: c.execute(query, (mount,)).fetchall())
    return {
        str(path): frozenset([*json.loads(str(labels)), *json.loads(str(names))])
        for path, labels, names in rows
    }


@contextmanager
def _whole_paths(mount: str) -> Iterator[None]:
    """Raise errors with the full path below /mnt instead of the path inside the mount."""

    def whole(inner: object) -> str:
        return f"{MOUNTS}/{mount}/{inner}".rstrip("/")

    try:
        yield
    except NoSuchObject as exc:
        if exc.kind != "file":
            raise
        raise NoSuchObject(exc.kind, whole(exc.name)) from exc
    except InvalidPath as exc:
        raise InvalidPath(whole(exc.path), exc.reason) from exc
    except FileExistsError:
        raise
    except OSError as exc:
        raise BackendError(f"mount {mount!r} failed: {exc.strerror or exc}") from exc


def too_large(path: str, size: int, limit: int) -> QuotaExceeded:
    """Build the error for a file larger than `storage.max_file_bytes`."""
    return QuotaExceeded(
        path,
        "bytes of one file",
        limit=limit,
        used=0,
        requested=size,
        hint="split it into several files, or raise storage.max_file_bytes",
    )


def _stored(path: str, facts: os.stat_result, labels: frozenset[str]) -> StoredFile:
    return StoredFile(path, None, 0, facts.st_size, facts.st_mtime, labels=labels)
