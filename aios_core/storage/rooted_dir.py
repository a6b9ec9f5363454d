"""Access to a host directory that no path can leave.

Every path is opened relative to a descriptor of the directory, and no symbolic link is
followed, in no component of the path, and not even if it appears during the call: Linux
resolves the path in one step (`openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
Elsewhere the path is walked name by name with O_NOFOLLOW, each step from the descriptor of
the step before, which no race can redirect.

Only regular files and directories are opened; FIFOs and devices are refused. Every function
blocks, so that none may run on an event loop.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from aios_core.errors import InvalidPath, NoSuchObject

_OPENAT2: Final = 437  # the same number on every architecture of Linux
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_LEADS_OUT: Final = (errno.ELOOP, errno.EXDEV)


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class RootedDir:
    """An open host directory, as with RESOLVE_BENEATH: its paths cannot lead out of it.

    Paths are relative: canonical names with "/" between them; "" is the directory itself. The
    constructor opens it, and raises `OSError` if there is no such directory.
    """

    def __init__(self, directory: Path | str, *, with_openat2: bool | None = None) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._with_openat2 = has_openat2() if with_openat2 is None else with_openat2

    def close(self) -> None:
        """Close the directory. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Open a path, and return the descriptor.

        Raises:
            InvalidPath: it leads through a link or out of the directory, or it is neither a file
                nor a directory.
            NoSuchObject: there is nothing at the path.
            OSError: any other failure.
        """
        # O_NONBLOCK: opening a FIFO must not wait for its other end; the type is checked below.
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            if self._with_openat2:
                descriptor = _openat2(self._root, path or ".", flags, mode)
            else:
                descriptor = self._walk(path, flags, mode)
        except OSError as exc:
            raise _converted(exc, path) from exc
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            os.close(descriptor)
            raise InvalidPath(path, "is neither a file nor a directory")
        return descriptor

    @contextmanager
    def directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        """Open a directory for a `with` block; `make` creates its missing parts."""
        descriptor = self._made(path) if make else self.open(path, _DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, path: str, limit: int) -> tuple[bytes, os.stat_result]:
        """Read a file, at most `limit` + 1 bytes of it. Returns the bytes and its `stat` result.

        The extra byte shows the caller that the file is too large.
        """
        descriptor = self.open(path, os.O_RDONLY)
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            os.close(descriptor)
            raise InvalidPath(path, "is a directory")
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit + 1), facts

    def write(self, path: str, data: bytes, *, is_new: bool = False) -> None:
        """Replace or create a file, atomically and durably.

        Raises `FileExistsError` if `is_new` and the file exists.
        """
        above, _, name = path.rpartition("/")
        with self.directory(above, make=True) as directory:
            _refuse_special(directory, name, path)
            part = f".{secrets.token_hex(8)}.part"
            descriptor = os.open(
                part,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o666,
                dir_fd=directory,
            )
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if is_new:  # unlike a rename, a link fails if the name exists
                    os.link(part, name, src_dir_fd=directory, dst_dir_fd=directory)
                else:
                    os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            finally:
                with suppress(OSError):
                    os.unlink(part, dir_fd=directory)

    def place(self, path: str, data: bytes) -> None:
        """Create a file without syncing it to disk, for directories of temporary files."""
        above, _, _ = path.rpartition("/")
        with self.directory(above, make=True):
            descriptor = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def append(self, path: str, data: bytes) -> None:
        """Append to a file, durably; it is created if it does not exist."""
        above = path.rpartition("/")[0]
        with self.directory(above, make=True) as directory:
            descriptor = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            with os.fdopen(descriptor, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(directory)

    def delete(self, path: str) -> None:
        """Delete a file. Of a link, the link itself is deleted."""
        above, _, name = path.rpartition("/")
        with self.directory(above) as directory:
            try:
                os.unlink(name, dir_fd=directory)
            except OSError as exc:
                raise _converted(exc, path) from exc
            os.fsync(directory)

    def move(self, path: str, to: str) -> None:
        """Rename a file. Raises `FileExistsError` if something is at the new path."""
        above, _, name = path.rpartition("/")
        above_it, _, new = to.rpartition("/")
        with self.directory(above) as source, self.directory(above_it, make=True) as target:
            _refuse_special(source, name, path)
            try:
                os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                os.unlink(name, dir_fd=source)
            except FileExistsError:
                raise
            except OSError as exc:
                raise _converted(exc, path) from exc
            for directory in (target, source):
                os.fsync(directory)

    def walk(self, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield the path and `stat` result of each file below a directory, sorted by path.

        Links and special files are skipped.
        """
        pending = [path]
        while pending:
            here = pending.pop()
            with suppress(NoSuchObject), self.directory(here) as directory:
                for name in sorted(os.listdir(directory), reverse=True):  # noqa: PTH208 - a descriptor
                    with suppress(FileNotFoundError):
                        facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
                        whole = f"{here}/{name}" if here else name
                        if stat.S_ISDIR(facts.st_mode):
                            pending.append(whole)
                        elif stat.S_ISREG(facts.st_mode):
                            yield whole, facts

    # --- inside ------------------------------------------------------------------------------

    def _made(self, path: str) -> int:
        """Open a directory; create it and its missing parents, durably."""
        descriptor = os.dup(self._root)
        for name in filter(None, path.split("/")):
            try:
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o777, dir_fd=descriptor)
                        os.fsync(descriptor)
                    below = os.open(name, _DIRECTORY, dir_fd=descriptor)
            except OSError as exc:
                raise _converted(exc, path) from exc
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _walk(self, path: str, flags: int, mode: int) -> int:
        """Open a path name by name, on systems without `openat2`."""
        *above, last = path.split("/") if path else ["."]
        descriptor = os.dup(self._root)
        try:
            for name in above:
                _refuse_dots(name)
                below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            if path:
                _refuse_dots(last)
            return os.open(last, flags, mode, dir_fd=descriptor)
        finally:
            os.close(descriptor)


@cache
def has_openat2() -> bool:
    """Return whether the system supports `openat2` (Linux since 5.6)."""
    if not sys.platform.startswith("linux"):
        return False
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, ".", os.O_RDONLY | os.O_CLOEXEC, 0))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _openat2(root: int, path: str, flags: int, mode: int) -> int:
    how = _OpenHow(
        flags, mode if flags & os.O_CREAT else 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS
    )
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "a NUL in a path", path)
    while True:
        descriptor: int = _libc().syscall(
            _OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how)
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: a rename raced with it
            raise OSError(number, os.strerror(number), path)


def _refuse_special(directory: int, name: str, path: str) -> None:
    """Raise `InvalidPath` if something other than a regular file has that name."""
    try:
        kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _converted(exc, path) from exc
    if not stat.S_ISREG(kind):
        what = "a directory" if stat.S_ISDIR(kind) else "a link, or a special file"
        raise InvalidPath(path, f"is {what}")


def _refuse_dots(name: str) -> None:
    if name in ("", ".", ".."):
        raise OSError(errno.EXDEV, "leads out", name)


def _converted(exc: OSError, path: str) -> Exception:
    """Convert a system error at a path to an error for the agent, where there is one."""
    if exc.errno in _LEADS_OUT:
        return InvalidPath(path, "goes through a symbolic link, or out of its root")
    if exc.errno == errno.ENOENT:
        return NoSuchObject("file", path)
    if exc.errno in (errno.ENOTDIR, errno.EISDIR):
        return InvalidPath(path, "goes through a file or a link, or is a directory")
    if exc.errno in (errno.EINVAL, errno.ENAMETOOLONG, errno.ENXIO):
        return InvalidPath(path, exc.strerror or "is not a valid path")
    return exc
