"""Access a directory tree through its descriptor, safely against code that changes it.

`/work` is an in-memory file system of one sandbox, accessed from outside through a descriptor.
Confined code may change it at the same time (a session does not stop meanwhile), so every step
goes from directory to directory, follows no link, opens only regular files, and is bounded.
All functions block: do not call them on an event loop.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

_CHUNK: Final = 1 << 20  # bytes
_DEEPEST: Final = 64  # nested directories; deeper ones are skipped
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ENTER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stamp(NamedTuple):
    """A fingerprint that changes whenever a file changes; `changed_ns` cannot be set back."""

    size: int
    inode: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_ino, status.st_ctime_ns)


class Entry(NamedTuple):
    """A regular file of a tree. `path` has "/" between its parts."""

    path: str
    stamp: Stamp
    is_program: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory tree below an open directory, which the caller closes.

    `uid` and `gid` own the files. Root acts as that user here, because the file system of
    another user namespace accepts no files from users that are not mapped in it.
    """

    descriptor: int
    uid: int
    gid: int

    def num_files(self) -> int:
        """Return the number of files and directories in its file system."""
        status = os.fstatvfs(self.descriptor)
        return status.f_files - status.f_ffree

    def walk(self, most: int) -> Walk:
        """Find its regular files, among at most `most` entries."""
        with self._acting():
            return Walk(self.descriptor, most)

    def read(self, path: str) -> int:
        """Open a file and return its descriptor. Raises `OSError`."""
        with self._acting(), self._parent(path) as (directory, name):
            reader = os.open(name, _READ, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            os.close(reader)
            raise OSError(errno.EINVAL, "no longer a regular file", path)
        return reader

    def write(self, entry: Entry, reader: int) -> Stamp:
        """Write a file, in place of an existing one, with at most the size of its entry.

        Raises `OSError`.
        """
        with self._acting(), self._parent(entry.path, is_made=True) as (directory, name):
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(name, dir_fd=directory)
            writer = os.open(name, _WRITE, 0o600, dir_fd=directory)
            try:
                os.fchmod(writer, 0o755 if entry.is_program else 0o644)
                _pour(reader, writer, entry.stamp.size)
                return Stamp.of(os.fstat(writer))
            finally:
                os.close(writer)

    def remove(self, path: str) -> None:
        """Remove a file if it exists, and its parent directories if they became empty."""
        with self._acting(), suppress(OSError):
            with self._parent(path) as (directory, name):
                os.unlink(name, dir_fd=directory)
            while path := path.rpartition("/")[0]:
                with self._parent(path) as (directory, name):
                    os.rmdir(name, dir_fd=directory)

    @contextmanager
    def _parent(self, path: str, *, is_made: bool = False) -> Iterator[tuple[int, str]]:
        """Open the parent directory of a path. Enters its descriptor and the file's name."""
        *above, name = path.split("/")
        directory = os.open(".", ENTER, dir_fd=self.descriptor)
        try:
            for part in above:
                if is_made:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=directory)
                below = os.open(part, ENTER, dir_fd=directory)
                os.close(directory)
                directory = below
            yield directory, name
        finally:
            os.close(directory)

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """Act as the owner of the files, for file operations of this thread."""
        uid, gid = os.geteuid(), os.getegid()
        if uid != 0 or self.uid == 0:
            yield
            return
        libc = _libc()
        libc.setfsgid(self.gid)
        libc.setfsuid(self.uid)
        try:
            yield
        finally:
            libc.setfsuid(uid)
            libc.setfsgid(gid)


class Walk:
    """The files that a walk found. `is_complete` if there were not more entries than allowed."""

    def __init__(self, root: int, most: int) -> None:
        self.files: dict[str, Entry] = {}
        self.skipped: list[str] = []
        self._left = most
        self._enter(os.open(".", ENTER, dir_fd=root), "", 1)
        self.is_complete = self._left >= 0

    def _enter(self, directory: int, above: str, depth: int) -> None:
        """Add the files of a directory, and close it."""
        try:
            for name in sorted(os.listdir(directory)):
                self._left -= 1
                if self._left < 0:
                    return
                self._look(directory, name, above + name, depth)
        finally:
            os.close(directory)

    def _look(self, directory: int, name: str, path: str, depth: int) -> None:
        try:
            path.encode()
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and depth < _DEEPEST:
                self._enter(os.open(name, ENTER, dir_fd=directory), path + "/", depth + 1)
                return
        except (OSError, UnicodeEncodeError):
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            self.files[path] = Entry(path, Stamp.of(status), bool(status.st_mode & 0o100))
        else:
            self.skipped.append(path.encode(errors="replace").decode())


def _pour(reader: int, writer: int, size: int) -> None:
    while size > 0 and (chunk := os.read(reader, min(size, _CHUNK))):
        size -= len(chunk)
        while chunk:
            chunk = chunk[os.write(writer, chunk) :]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
