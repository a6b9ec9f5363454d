"""What the storage manager answers with. Times are seconds since 1970, sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ChangeKind(StrEnum):
    """What made a version."""

    CREATE = "create"
    WRITE = "write"
    APPEND = "append"
    MOVE = "move"
    DELETE = "delete"
    ROLLBACK = "rollback"
    RESTORE = "restore"  # of a whole tree
    PURGE = "purge"  # the file and its history are gone for good


@dataclass(frozen=True, slots=True)
class FileVersion:
    """One version of a file: what it was made by, and when. `seq` orders the changes of all."""

    path: str  # where the file was then
    version: int  # 1 is the first
    change: ChangeKind
    size: int
    at: float
    author: str  # identity of the agent that made it
    labels: frozenset[str]  # where its content comes from
    seq: int
    name_labels: frozenset[str] = frozenset()  # where the file's names come from


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it is now. `version` is 0 in a mount, whose files have no versions."""

    path: str
    owner: str | None  # None: in a mount
    version: int
    size: int
    changed_at: float
    is_deleted: bool = False
    labels: frozenset[str] = frozenset()
    name_labels: frozenset[str] = frozenset()  # where its path comes from


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of one version."""

    data: bytes
    version: int  # pass it as `if_version` to write only if nobody else did
    labels: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """The content as UTF-8; what is none is replaced by U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One thing that happened to a file, as a watcher sees it."""

    seq: int  # go on from here: `watch(after=seq)`
    owner: str
    path: str
    change: ChangeKind
    version: int
    at: float
    labels: frozenset[str] = frozenset()
    name_labels: frozenset[str] = frozenset()  # where its path comes from


@dataclass(frozen=True, slots=True)
class SavedTree:
    """A snapshot of a tree: which version of which file was where."""

    name: str
    root: str
    at: float
    num_files: int
    labels: frozenset[str] = frozenset()  # of who made and named it


@dataclass(frozen=True, slots=True)
class StorageSpace:
    """What an owner keeps, old versions and deleted files included."""

    bytes: int
    files: int
    max_bytes: int | None  # None: no limit
    max_files: int | None


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who makes a change, from what, and when."""

    author: str
    at: float
    labels: frozenset[str] = field(default=frozenset())
