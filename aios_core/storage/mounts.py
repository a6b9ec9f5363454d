"""Shared mounts: directories of the host that every agent sees below /mnt.

Files in a mount belong to nobody and have no versions. What an agent wrote there is
remembered with its origin labels; whatever is read from a mount also carries the
label "mount:NAME", since others than agents may have written it. Names that are not
canonical (see `paths`) are not listed, because they could not be reached.

Everything here blocks and runs on the storage threads. `_lock` guards the opened roots.
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
from aios_core.storage.rooted_dir import Beneath

_MAX_WALKED: Final = 100_000  # files of one listing


class Mounts:
    """See the module. `database` has the labels; None until there are any to look up."""

    def __init__(self, mounts: Mapping[str, MountConfig], max_file_bytes: int) -> None:
        self._mounts = dict(mounts)
        self._max_file_bytes = max_file_bytes
        self._roots: dict[str, Beneath] = {}
        self._lock = threading.Lock()

    def require(self) -> None:
        """Raise `ConfigError` unless each can be reached and is a directory."""
        for name, config in self._mounts.items():
            key = f"storage.mounts.{name}"
            if "/" in name or not is_canonical_name(name):
                raise ConfigError(key, name, "a name as in a path, without slashes")
            if not os.path.isdir(os.path.expanduser(config.directory)):  # noqa: PTH111, PTH112 - a text
                raise ConfigError(f"{key}.directory", config.directory, "a directory that exists")

    def close(self) -> None:
        """Let go of the directories. Idempotent."""
        with self._lock:
            for root in self._roots.values():
                root.close()
            self._roots.clear()

    def is_writable(self, path: str) -> bool:
        """Return whether agents may change the mount that a path is in. Raises `NoSuchObject`."""
        return self._config(self._split(path)[0]).mode == "write"

    def exists(self, path: str) -> bool:
        """Return whether something is there."""
        name, inner = self._split(path)
        try:
            os.close(self._root(name).open(inner, os.O_RDONLY))
        except NoSuchObject:
            return False
        return True

    def read(self, database: Database, path: str) -> FileContent:
        """The content of a file."""
        name, inner = self._split(path)
        with _whole_paths(name):
            data, _ = self._root(name).read(inner, self._max_file_bytes)
        self._require_size(len(data), path)
        return FileContent(data, 0, self.labels(database, path))

    def stat(self, database: Database, path: str) -> StoredFile:
        """The facts of a file."""
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
        """The files at or below a path, in the order of their paths; at "/mnt" of all mounts."""
        names = sorted(self._mounts) if path == MOUNTS else [self._split(path)[0]]
        found: list[StoredFile] = []
        for name in names:
            inner, known = "" if path == MOUNTS else self._split(path)[1], _known(database, name)
            for below, facts in self._root(name).walk(inner):
                if all(map(is_canonical_name, below.split("/"))):
                    labels = frozenset({f"mount:{name}"}) | known.get(below, frozenset())
                    found.append(_stored(f"{MOUNTS}/{name}/{below}", facts, labels))
                if len(found) > _MAX_WALKED:
                    raise InvalidPath(path, f"has more than {_MAX_WALKED:,} files; list a part")
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
        """Replace a file, or make it; all of it or nothing."""
        self._require_size(len(data), path)
        name, inner = self._split(path)
        self._label(database, path, labels | self.known_labels(database, path))
        try:
            with _whole_paths(name):
                self._root(name).write(inner, data, is_new=is_new)
        except FileExistsError as exc:
            raise Conflict(f"{path} is there already") from exc
        if not is_new:
            self._label(database, path, labels)  # what was there before is gone
        return self.stat(database, path)

    def append(
        self, database: Database, path: str, data: bytes, labels: frozenset[str]
    ) -> StoredFile:
        """Add to the end of a file, or make it."""
        name, inner = self._split(path)
        self._require_size(len(data), path)
        self._label(database, path, labels | self.known_labels(database, path))
        with _whole_paths(name):
            self._root(name).append(inner, data)
        return self.stat(database, path)

    def delete(self, path: str) -> None:
        """Remove a file."""
        name, inner = self._split(path)
        with _whole_paths(name):
            self._root(name).delete(inner)

    def move(self, database: Database, path: str, to: str, labels: frozenset[str]) -> StoredFile:
        """Give a file another path in the same mount."""
        (name, inner), (target, new) = self._split(path), self._split(to)
        if name != target:
            raise InvalidPath(to, f"is in another mount than {path}; read the one, write the other")
        self._label(database, to, labels | self.known_labels(database, path), is_named=True)
        try:
            with _whole_paths(name):
                self._root(name).move(inner, new)
        except FileExistsError as exc:
            raise Conflict(f"{to} is there already") from exc
        return self.stat(database, to)

    def labels(self, database: Database, path: str) -> frozenset[str]:
        """Where a file's content comes from, as far as it is known."""
        return self.known_labels(database, path) | {f"mount:{self._split(path)[0]}"}

    def known_labels(self, database: Database, path: str) -> frozenset[str]:
        """The labels that agents wrote a file with."""
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
            raise InvalidPath(path, "is in no mount")
        return place

    def _config(self, name: str) -> MountConfig:
        if name not in self._mounts:
            raise NoSuchObject("mount", name, self._mounts)
        return self._mounts[name]

    def _root(self, name: str) -> Beneath:
        config = self._config(name)
        with self._lock:
            if name not in self._roots:
                try:
                    self._roots[name] = Beneath(os.path.expanduser(config.directory))  # noqa: PTH111 - a text
                except OSError as exc:
                    raise BackendError(f"mount {name!r}: {config.directory}: {exc}") from exc
            return self._roots[name]

    def _label(
        self, database: Database, path: str, labels: frozenset[str], *, is_named: bool = False
    ) -> None:
        """Remember labels, before the content is there: a crash leaves too many, not too few.

        `is_named`: they are the name's too. A file that nothing is known of is named with them.
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
    """The labels of the files of a mount and of their names, by path; of agents' files alone."""
    query = "SELECT path, labels, name_labels FROM mount_labels WHERE mount = ?"
    rows = database.read(lambda c: c.execute(query, (mount,)).fetchall())
    return {
        str(path): frozenset([*json.loads(str(labels)), *json.loads(str(names))])
        for path, labels, names in rows
    }


@contextmanager
def _whole_paths(mount: str) -> Iterator[None]:
    """What fails in a mount is told with the path that agents know it by."""

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
        raise BackendError(f"mount {mount!r} refuses: {exc.strerror or exc}") from exc


def too_large(path: str, size: int, limit: int) -> QuotaExceeded:
    """The error for a file beyond `storage.max_file_bytes`."""
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
