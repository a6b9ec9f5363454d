"""The files of confined code: its `/work`, reached from outside through a descriptor.

`/work` is a file system in memory of the sandbox alone, with a size of its own, so
that code can neither fill a disk nor leave anything on one. What the host hands in
is copied in before, what it gets back is copied out after. Confined code may
race with that (a session does not stop for it), so that every step goes through
descriptors, follows no link, opens nothing but regular files, and is bounded.

Everything here blocks: not for an event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from aios_core.errors import QuotaExceeded
from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.result import FileChanges

_CHUNK: Final = 1 << 20  # bytes
_DEEPEST: Final = 64  # directories below one another; what is deeper is skipped
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stamp(NamedTuple):
    """Changes whenever a file does; its owner cannot set `changed_ns` back."""

    size: int
    inode: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_ino, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class WorkTree:
    """A directory by its descriptor; `uid` and `gid` own what is put there."""

    descriptor: int
    uid: int
    gid: int

    def num_files(self) -> int:
        """Files and directories in its file system."""
        status = os.fstatvfs(self.descriptor)
        return status.f_files - status.f_ffree


class Mirror:
    """Keeps a directory of the host and a work tree alike, copying only what changed."""

    def __init__(self, directory: Path, work: WorkTree, limits: Limits) -> None:
        self._directory = directory
        self._work = work
        self._limits = limits
        self._outside: dict[str, Stamp] = {}
        self._inside: dict[str, Stamp] = {}

    def push(self) -> None:
        """Bring the files of the host in. What was removed there is removed inside.

        Raises:
            QuotaExceeded: they are more than the sandbox has room for.
        """
        outside = os.open(self._directory, _ENTER)
        try:
            found = _Walk(outside, self._limits.files)
            there = {entry.path: entry for entry in found}
            for path in self._outside.keys() - there.keys():
                _remove(self._work.descriptor, path)
                del self._outside[path]
                self._inside.pop(path, None)
            size = sum(entry.stamp.size for entry in there.values())
            if size > self._limits.disk_bytes or not found.is_complete:
                raise self._no_room(size, len(there))
            for path, entry in there.items():
                if self._outside.get(path) != entry.stamp:
                    self._inside[path] = self._copy_in(outside, entry)
                    self._outside[path] = entry.stamp
        finally:
            os.close(outside)

    def pull(self) -> FileChanges:
        """Bring what changed inside out."""
        outside = os.open(self._directory, _ENTER)
        try:
            walk = _Walk(self._work.descriptor, self._limits.files)
            there = {entry.path: entry for entry in walk}
            removed = self._inside.keys() - there.keys() if walk.is_complete else set()
            for path in removed:
                _remove(outside, path)
                del self._inside[path]
                self._outside.pop(path, None)
            written = [path for path, entry in there.items() if self._is_new(path, entry)]
            skipped = list(walk.skipped)
            room = self._limits.disk_bytes
            for path in sorted(written):
                room -= there[path].stamp.size  # as it says; holes count too
                stamp = self._copy_out(outside, there[path]) if room >= 0 else None
                if stamp is None:
                    skipped.append(path)
                    written.remove(path)
                else:
                    self._outside[path] = stamp
                    self._inside[path] = there[path].stamp
            return FileChanges(
                tuple(sorted(written)), tuple(sorted(removed)), tuple(sorted(skipped))
            )
        finally:
            os.close(outside)

    def _is_new(self, path: str, entry: _Entry) -> bool:
        return self._inside.get(path) != entry.stamp

    def _copy_in(self, outside: int, entry: _Entry) -> Stamp:
        try:
            copied = _copy(outside, self._work.descriptor, entry, (self._work.uid, self._work.gid))
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_room(entry.stamp.size, 1) from exc
            raise
        return copied

    def _copy_out(self, outside: int, entry: _Entry) -> Stamp | None:
        try:
            return _copy(self._work.descriptor, outside, entry, None)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the host's disk is full
            return None  # it was changed under our hands, or may not be read

    def _no_room(self, size: int, num_files: int) -> QuotaExceeded:
        limits = self._limits
        hint = f"the sandbox takes {limits.files:,} files; hand it a part, or raise its limits"
        if num_files >= limits.files:
            return QuotaExceeded(
                "the sandbox", "files", limit=limits.files, used=0, requested=num_files, hint=hint
            )
        return QuotaExceeded(
            "the sandbox", "bytes", limit=limits.disk_bytes, used=0, requested=size, hint=hint
        )


class _Entry(NamedTuple):
    path: str
    stamp: Stamp
    mode: int


class _Walk:
    """The regular files below a descriptor. Iterate once, then ask for the rest."""

    def __init__(self, root: int, most: int) -> None:
        self.skipped: list[str] = []
        self.is_complete = True
        self._root = root
        self._left = most

    def __iter__(self) -> Iterator[_Entry]:
        return self._below(os.open(".", _ENTER, dir_fd=self._root), "", 1)

    def _below(self, directory: int, above: str, depth: int) -> Iterator[_Entry]:
        """Closes `directory`."""
        try:
            for name in sorted(os.listdir(directory)):
                if self._left <= 0:
                    self.is_complete = False
                    return
                self._left -= 1
                yield from self._entry(directory, name, above + name, depth)
        finally:
            os.close(directory)

    def _entry(self, directory: int, name: str, path: str, depth: int) -> Iterator[_Entry]:
        try:
            path.encode()
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and depth < _DEEPEST:
                entered = os.open(name, _ENTER, dir_fd=directory)
                yield from self._below(entered, path + "/", depth + 1)
                return
        except (OSError, UnicodeEncodeError):
            self._skip(path)
            return
        if stat.S_ISREG(status.st_mode):
            yield _Entry(path, Stamp.of(status), status.st_mode)
        else:
            self._skip(path)

    def _skip(self, path: str) -> None:
        self.skipped.append(path.encode(errors="replace").decode())


def _copy(source: int, target: int, entry: _Entry, owner: tuple[int, int] | None) -> Stamp:
    """Copy one file between trees, at most as many bytes as it had; its stamp in the target."""
    with _parent(source, entry.path) as (read_from, name):
        reader = os.open(name, _READ, dir_fd=read_from)
    try:
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            raise OSError(errno.EINVAL, "not a regular file any more", entry.path)
        with _parent(target, entry.path, owner=owner, is_made=True) as (write_to, name):
            _remove(write_to, name)
            writer = os.open(name, _WRITE, 0o600, dir_fd=write_to)
        try:
            _pour(reader, writer, entry.stamp.size)
            os.fchmod(writer, 0o755 if entry.mode & 0o100 else 0o644)
            if owner is not None:
                os.fchown(writer, *owner)
            return Stamp.of(os.fstat(writer))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _pour(reader: int, writer: int, size: int) -> None:
    while size > 0 and (chunk := os.read(reader, min(size, _CHUNK))):
        size -= len(chunk)
        while chunk:
            chunk = chunk[os.write(writer, chunk) :]


def _remove(root: int, path: str) -> None:
    """Remove a file if it is there, and the directories above it that became empty."""
    with suppress(OSError), _parent(root, path) as (directory, name):
        os.unlink(name, dir_fd=directory)
    above = path.rpartition("/")[0]
    while above:
        try:
            with _parent(root, above) as (directory, name):
                os.rmdir(name, dir_fd=directory)
        except OSError:
            return
        above = above.rpartition("/")[0]


class _parent:  # noqa: N801 - a context manager, used as a function
    """Open the directory of a path, one part after the other, following no link."""

    def __init__(
        self, root: int, path: str, *, owner: tuple[int, int] | None = None, is_made: bool = False
    ) -> None:
        *self._above, self._name = path.split("/")
        self._owner = owner
        self._is_made = is_made
        self._directory = os.open(".", _ENTER, dir_fd=root)

    def __enter__(self) -> tuple[int, str]:
        try:
            for part in self._above:
                if self._is_made:
                    self._make(part)
                below = os.open(part, _ENTER, dir_fd=self._directory)
                os.close(self._directory)
                self._directory = below
        except BaseException:
            os.close(self._directory)
            raise
        return self._directory, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    def _make(self, name: str) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=self._directory)
        except FileExistsError:
            return
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=self._directory, follow_symlinks=False)
