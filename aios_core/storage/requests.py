"""The requests for files, and the access that each of them needs.

They include the calls of the AIOS paper: sto_create is `FileCreate`, sto_read `FileRead`,
sto_write `FileWrite` and `FileAppend`, sto_clear `FileDelete` and `FilePurge`,
sto_retrieve `FileRetrieve`, sto_rollback `FileRollback` and `TreeRestore`; sto_share is a
grant on a file (`aios_core.access`).

The constructor of a request makes its paths canonical, so that the access check, the
approval and the manager use one path. `owner` is the agent that owns the file; None: the
caller. Files below "/mnt" are unowned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.messages import require_unicode
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.storage.paths import MOUNTS, ROOT, canonical, canonical_file, is_below
from aios_core.storage.records import (
    FileChange,
    FileContent,
    FileVersion,
    SavedTree,
    StorageUsage,
    StoredFile,
)
from aios_core.storage.semantic_index import Hit
from aios_core.syscalls import Discloses, Request

T = TypeVar("T")

MAX_LISTED = 10_000
MAX_QUERY_CHARS = 10_000


def _require_count(name: str, value: object, *, at_least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InvalidRequest(
            f"{name}: got {shown_repr(value)}; allowed: a whole number from {at_least}"
        )


@dataclass(frozen=True, slots=True)
class _PathRequest(Request[T]):
    """A request about one path."""

    right: ClassVar[Right] = Right.READ
    is_file: ClassVar[bool] = True  # False: the path may be a directory
    path: str
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        path = canonical_file(self.path) if self.is_file else canonical(self.path)
        object.__setattr__(self, "path", path)
        if self.owner is not None and (not isinstance(self.owner, str) or not self.owner):
            raise InvalidRequest(
                f"owner: got {shown_repr(self.owner)}; allowed: an identity, or None"
            )

    @property
    def is_shared(self) -> bool:
        """Return whether the path is in the shared mounts."""
        return is_below(self.path, MOUNTS)

    def of(self, identity: str) -> str | None:
        """Return the owner of the file for a caller of that identity; None: it is in a mount."""
        return None if self.is_shared else self.owner or identity

    def arguments(self) -> Mapping[str, Any]:
        """Return the other arguments of the request, as plain JSON values, for the access check."""
        return {}

    def irreversible(self) -> str | None:
        """Return why the request cannot be undone; None: it can."""
        return None

    def access(self, identity: str) -> Access:
        """Return the access to the file or directory that the request needs."""
        return Access(
            self.kind,
            self.right,
            Resource("file", self.of(identity), self.path),
            self.arguments(),
            self.irreversible(),
        )


@dataclass(frozen=True, slots=True)
class _Change(_PathRequest[T]):
    """A request that makes a version.

    With `if_version`, it fails with `Conflict` unless that is the newest version (0: no file).
    """

    right: ClassVar[Right] = Right.WRITE
    if_version: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _PathRequest.__post_init__(self)
        _require_count("if_version", self.if_version, at_least=0)
        if self.if_version is not None and self.is_shared:
            raise InvalidRequest(f"if_version: {self.path} is in a mount, which has no versions")


@dataclass(frozen=True, slots=True)
class _Write(_Change[FileVersion]):
    """A request that stores content."""

    data: bytes = b""

    def __post_init__(self) -> None:
        _Change.__post_init__(self)
        if not isinstance(self.data, bytes):
            raise InvalidRequest(f"data: got {type(self.data).__name__}; allowed: a text or bytes")

    def arguments(self) -> Mapping[str, Any]:
        return {
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "size": len(self.data),
            "if_version": self.if_version,
        }


@dataclass(frozen=True, slots=True)
class FileCreate(_Write):
    """Create a file. Raises `Conflict` if it exists."""

    kind: ClassVar[str] = "storage.create"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class FileWrite(_Write):
    """Write a file as a new version; the file is created if it does not exist."""

    kind: ClassVar[str] = "storage.write"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING

    def irreversible(self) -> str | None:
        return "a file in a mount keeps no older version" if self.is_shared else None


@dataclass(frozen=True, slots=True)
class FileAppend(_Write):
    """Append to a file as a new version; the file is created if it does not exist."""

    kind: ClassVar[str] = "storage.append"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class FileRead(_PathRequest[FileContent]):
    """Read a file, or one of its versions."""

    kind: ClassVar[str] = "storage.read"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    version: int | None = field(default=None, kw_only=True)  # None: the newest

    def __post_init__(self) -> None:
        _PathRequest.__post_init__(self)
        _require_count("version", self.version, at_least=1)

    def arguments(self) -> Mapping[str, Any]:
        return {"version": self.version}


@dataclass(frozen=True, slots=True)
class FileStat(_PathRequest[StoredFile]):
    """Return the metadata of a file."""

    kind: ClassVar[str] = "storage.stat"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT


@dataclass(frozen=True, slots=True)
class FileList(_PathRequest[tuple[StoredFile, ...]]):
    """List the files below a directory, sorted by path; with `deleted`, the deleted ones."""

    kind: ClassVar[str] = "storage.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_file: ClassVar[bool] = False
    path: str = ROOT
    deleted: bool = field(default=False, kw_only=True)
    after: str | None = field(default=None, kw_only=True)  # start after this path
    limit: int = field(default=MAX_LISTED, kw_only=True)

    def __post_init__(self) -> None:
        _PathRequest.__post_init__(self)
        _require_count("limit", self.limit, at_least=1)
        if self.after is not None:
            object.__setattr__(self, "after", canonical(self.after))

    def arguments(self) -> Mapping[str, Any]:
        return {"deleted": self.deleted, "after": self.after, "limit": self.limit}


@dataclass(frozen=True, slots=True)
class FileMove(_Change[FileVersion]):
    """Move a file, or all files below a directory, with their history.

    Answered with the version that the move made; for a directory, with the last one.
    """

    kind: ClassVar[str] = "storage.move"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    to: str = ""

    def __post_init__(self) -> None:
        _Change.__post_init__(self)
        object.__setattr__(self, "to", canonical_file(self.to))
        if is_below(self.to, MOUNTS) != self.is_shared:
            raise InvalidRequest(
                f"{self.path} cannot move to {self.to}: one of them is in a mount, where files "
                "have no history; read one file and write the other instead"
            )

    def arguments(self) -> Mapping[str, Any]:
        return {"path": self.path, "to": self.to, "if_version": self.if_version}

    def access(self, identity: str) -> Access:
        """Return the write access to both paths."""
        there = Resource("file", self.of(identity), self.to)
        also = (Access(self.kind, self.right, there, self.arguments()),)
        return replace(_Change.access(self, identity), also=also)


@dataclass(frozen=True, slots=True)
class FileDelete(_Change[FileVersion]):
    """Delete a file with a new version: `FileRollback` restores it, `FilePurge` removes it."""

    kind: ClassVar[str] = "storage.delete"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING

    def irreversible(self) -> str | None:
        return "a file in a mount keeps no older version" if self.is_shared else None

    def arguments(self) -> Mapping[str, Any]:
        return {"if_version": self.if_version}


@dataclass(frozen=True, slots=True)
class _History(_PathRequest[T]):
    """A request about versions. Files in mounts have none."""

    def __post_init__(self) -> None:
        _PathRequest.__post_init__(self)
        if self.is_shared:
            raise InvalidRequest(f"{self.path} is in a mount; files in mounts have no versions")


@dataclass(frozen=True, slots=True)
class FilePurge(_History[int]):
    """Remove a deleted file with its whole history, or the versions before `before`.

    Answered with the number of bytes that it freed.
    """

    kind: ClassVar[str] = "storage.purge"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    before: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        _require_count("before", self.before, at_least=1)

    def irreversible(self) -> str | None:
        return "a purged version cannot be brought back"

    def arguments(self) -> Mapping[str, Any]:
        return {"before": self.before}


@dataclass(frozen=True, slots=True)
class FileHistory(_History[tuple[FileVersion, ...]]):
    """List all versions of a file, the newest first."""

    kind: ClassVar[str] = "storage.history"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT


@dataclass(frozen=True, slots=True)
class FileDiff(_History[str]):
    """Compare two versions of a file as a unified diff.

    Without `new`, the newest version is compared; without `old`, the version before `new`.
    """

    kind: ClassVar[str] = "storage.diff"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    old: int | None = field(default=None, kw_only=True)
    new: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        _require_count("old", self.old, at_least=0)  # 0: an empty file
        _require_count("new", self.new, at_least=1)

    def arguments(self) -> Mapping[str, Any]:
        return {"old": self.old, "new": self.new}


@dataclass(frozen=True, slots=True)
class FileRollback(_History[FileVersion]):
    """Make the content of an older version the newest one. Restores a deleted file too."""

    kind: ClassVar[str] = "storage.rollback"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    version: int = 0
    if_version: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        _require_count("version", self.version, at_least=1)
        _require_count("if_version", self.if_version, at_least=0)

    def arguments(self) -> Mapping[str, Any]:
        return {"version": self.version, "if_version": self.if_version}


@dataclass(frozen=True, slots=True)
class FileChanges(_History[tuple[FileChange, ...]]):
    """List the versions made below a path after change number `after`, the oldest first."""

    kind: ClassVar[str] = "storage.changes"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_file: ClassVar[bool] = False
    after: int = 0
    limit: int = field(default=256, kw_only=True)

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        _require_count("after", self.after, at_least=0)
        _require_count("limit", self.limit, at_least=1)

    def arguments(self) -> Mapping[str, Any]:
        return {"after": self.after, "limit": self.limit}


@dataclass(frozen=True, slots=True)
class FileWait(_History[int]):
    """Wait at most `wait_s` seconds for a change with a number above `after`.

    Answered with only the number of the owner's last change. `FileChanges` then reads the
    changes, with an access check of its own. With `after` -1, it is answered at once.
    """

    kind: ClassVar[str] = "storage.wait"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    is_file: ClassVar[bool] = False
    after: int = -1
    wait_s: float = field(default=1.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class FileRetrieve(_History[tuple[Hit, ...]]):
    """Find the `k` chunks of files below a path that are nearest in meaning to a text."""

    kind: ClassVar[str] = "storage.retrieve"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_file: ClassVar[bool] = False
    query: str = ""
    k: int = field(default=5, kw_only=True)

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        _require_count("k", self.k, at_least=1)
        if not isinstance(self.query, str) or not self.query.strip():
            raise InvalidRequest(f"query: got {shown_repr(self.query)}; allowed: a text, not empty")
        require_unicode("query", self.query)
        if len(self.query) > MAX_QUERY_CHARS:
            raise InvalidRequest(
                f"query: got {len(self.query):,} characters; allowed: up to {MAX_QUERY_CHARS:,}"
            )

    def arguments(self) -> Mapping[str, Any]:
        return {"query": self.query, "k": self.k}


@dataclass(frozen=True, slots=True)
class _TreeRequest(_History[T]):
    """A request about snapshots of the tree below a path."""

    is_file: ClassVar[bool] = False
    name: str = ""

    def __post_init__(self) -> None:
        _History.__post_init__(self)
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 200:
            raise InvalidRequest(f"name: got {shown_repr(self.name)}; allowed: 1 to 200 characters")

    def arguments(self) -> Mapping[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True, slots=True)
class TreeSnapshot(_TreeRequest[SavedTree]):
    """Save which version of which file is where below a path, under a name. Copies no content."""

    kind: ClassVar[str] = "storage.snapshot"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE


@dataclass(frozen=True, slots=True)
class TreeRestore(_TreeRequest[int]):
    """Restore the tree below a path from a snapshot, with new versions. Returns how many."""

    kind: ClassVar[str] = "storage.restore"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE


@dataclass(frozen=True, slots=True)
class TreeDelete(_TreeRequest[None]):
    """Delete a snapshot. Versions that only it retained may be removed."""

    kind: ClassVar[str] = "storage.forget"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE

    def irreversible(self) -> str | None:
        return "a deleted snapshot cannot be restored"


@dataclass(frozen=True, slots=True)
class TreeList(_History[tuple[SavedTree, ...]]):
    """List the snapshots of an owner's trees at or below a path, the oldest first."""

    kind: ClassVar[str] = "storage.snapshots"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_file: ClassVar[bool] = False
    path: str = ROOT


@dataclass(frozen=True, slots=True)
class StorageMeasure(_History[StorageUsage]):
    """Return the storage usage and quota of an owner."""

    kind: ClassVar[str] = "storage.usage"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_file: ClassVar[bool] = False
    path: str = ROOT
