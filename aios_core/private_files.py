"""Create files and directories that only their user can read, with any umask.

Every file that the kernel makes for itself is made here: mode 0600 in directories of
mode 0700, set after creation so that neither the umask nor an access control list of
the directory above changes it. Blocking; for threads.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
PART: Final = ".part"  # ends the name of a file that is not whole yet
_OTHERS: Final = 0o077


def make_directory(path: Path) -> None:
    """Make a directory that is not there, with those above it, durably and for its user alone."""
    missing = [one for one in (path, *path.parents) if not one.is_dir()]
    for one in reversed(missing):
        with suppress(FileExistsError):
            one.mkdir(mode=DIRECTORY_MODE)
            one.chmod(DIRECTORY_MODE)
        sync_directory(one.parent)


def open_private(path: Path, flags: int) -> int:
    """Open a file; if `flags` create it, only its user gets access."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
    try:
        _restrict(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_file(path: Path) -> None:
    """Make an empty file if there is none; either way it is for its user alone."""
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))


def write_file(path: Path, content: bytes) -> None:
    """Replace a file: all of it or nothing, durable, for its user alone."""
    part = path.with_name(f".{path.name[:16]}.{secrets.token_hex(6)}{PART}")
    try:
        with os.fdopen(open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tighten(path: Path) -> None:
    """Remove the rights of other users over this user's file or directory. Follows no link."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        return
    if found.st_mode & _OTHERS:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def tighten_below(path: Path) -> None:
    """Remove the rights of other users over a directory and everything in it."""
    tighten(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            tighten(Path(folder) / name)


def _restrict(descriptor: int, mode: int) -> None:
    found = os.fstat(descriptor)
    if stat.S_IMODE(found.st_mode) != mode and found.st_uid == os.geteuid():
        os.fchmod(descriptor, mode)
