"""A directory tree by its descriptor, one side of which may be hostile.

`/work` is a file system in memory of the sandbox alone, reached from outside through
a descriptor. Confined code may race with what is done here (a session does not stop
for it), so every step goes from directory to directory, follows no link, opens
nothing but regular files, and is bounded. All of it blocks: not for an event loop.
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
_DEEPEST: Final = 64  # directories below one another; what is deeper is skipped
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ENTER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stamp(NamedTuple):
    """Changes whenever a file does; its owner cannot set `changed_ns` back."""

    size: int
    inode: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_ino, status.st_ctime_ns)


class Entry(NamedTuple):
    """A regular file. `path` has "/" between its parts."""

    path: str
    stamp: Stamp
    is_program: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """Made with an open directory, which stays its maker's.

    `uid` and `gid`: whose files they are. Root acts as that user here, because a file
    system of another user namespace takes no files from users that it does not know.
    """

    descriptor: int
    uid: int
    gid: int

    def num_files(self) -> int:
        """Files and directories in its file system."""
        status = os.fstatvfs(self.descriptor)
        return status.f_files - status.f_ffree

    def walk(self, most: int) -> Walk:
        """Its regular files."""
        with self._acting():
            return Walk(self.descriptor, most)

    def read(self, path: str) -> int:
        """A descriptor to read a file from. Raises `OSError`."""
        with self._acting(), self._parent(path) as (directory, name):
            reader = os.open(name, _READ, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            os.close(reader)
            raise OSError(errno.EINVAL, "not a regular file any more", path)
        return reader

    def write(self, entry: Entry, reader: int) -> Stamp:
        """Put a file there, in place of any that is, at most as large as its entry says.

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
        """Remove a file if it is there, and the directories above it that became empty."""
        with self._acting(), suppress(OSError):
            with self._parent(path) as (directory, name):
                os.unlink(name, dir_fd=directory)
            while path := path.rpartition("/")[0]:
                with self._parent(path) as (directory, name):
                    os.rmdir(name, dir_fd=directory)

    @contextmanager
    def _parent(self, path: str, *, is_made: bool = False) -> Iterator[tuple[int, str]]:
        """The directory of a path, opened, and the name in it."""
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
        """As the owner, for this thread and what it does to files."""
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
    """What a walk found. `is_complete`: there was nothing beyond the most that was asked for."""

    def __init__(self, root: int, most: int) -> None:
        self.files: dict[str, Entry] = {}
        self.skipped: list[str] = []
        self._left = most
        self._enter(os.open(".", ENTER, dir_fd=root), "", 1)
        self.is_complete = self._left >= 0

    def _enter(self, directory: int, above: str, depth: int) -> None:
        """Closes `directory`."""
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
