"""The answers of the storage manager. Times are in seconds since 1970, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ChangeKind(StrEnum):
    """The kind of change that made a version."""

    CREATE = "create"
    WRITE = "write"
    APPEND = "append"
    MOVE = "move"
    DELETE = "delete"
    ROLLBACK = "rollback"
    RESTORE = "restore"  # of a tree snapshot
    PURGE = "purge"  # the file and its history were removed permanently


@dataclass(frozen=True, slots=True)
class FileVersion:
    """One version of a file: its change, author and time. `seq` orders the changes of all files."""

    path: str  # of the file at that version
    version: int  # 1 is the first
    change: ChangeKind
    size: int
    at: float
    author: str  # identity of the agent that made it
    labels: frozenset[str]  # of its content
    seq: int
    name_labels: frozenset[str] = frozenset()  # of the paths that the file has had


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The current state of a file. `version` is 0 in a mount: files there have no versions."""

    path: str
    owner: str | None  # None: in a mount
    version: int
    size: int
    changed_at: float
    is_deleted: bool = False
    labels: frozenset[str] = frozenset()
    name_labels: frozenset[str] = frozenset()  # of its path


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of one version of a file."""

    data: bytes
    version: int  # pass it as `if_version`, to write only if no one else has written since
    labels: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """The content decoded as UTF-8, with invalid bytes replaced by U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One change of a file, as a watcher receives it."""

    seq: int  # `watch(after=seq)` continues after this change
    owner: str
    path: str
    change: ChangeKind
    version: int
    at: float
    labels: frozenset[str] = frozenset()
    name_labels: frozenset[str] = frozenset()  # of its path


@dataclass(frozen=True, slots=True)
class SavedTree:
    """A tree snapshot: which version of which file was where below a path."""

    name: str
    root: str
    at: float
    num_files: int
    labels: frozenset[str] = frozenset()  # of the agent that made and named it


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """The storage usage and quota of an owner, old versions and deleted files included."""

    bytes: int
    files: int
    max_bytes: int | None  # None: no limit
    max_files: int | None


@dataclass(frozen=True, slots=True)
class Stamp:
    """The author, time and labels of a change."""

    author: str
    at: float
    labels: frozenset[str] = field(default=frozenset())
