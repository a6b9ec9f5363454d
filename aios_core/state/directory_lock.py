"""The lock of a state directory: which process has it open, and which database was there last.

    lock      12345                                      the process that has it open
              state 9f3c... life 7 open                  the database that was here last

The second line is written after the database's own commit, so it never vouches for more
than was stored. It distinguishes an empty, older or foreign `state.db` from the right one,
and a missing write-ahead log from one that was merged into the database.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from aios_core.errors import StateError
from aios_core.private_files import open_private

LOCK_FILE: Final = "lock"
_MAX_BYTES: Final = 512
_VOUCHER: Final = re.compile(r"^state ([0-9a-f]{32}) life (\d+) (open|closed)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Voucher:
    """Which database was last opened here, and for which time."""

    state_id: str
    life: int  # 1 for the first kernel that opened it
    is_open: bool = True  # the kernel of that life did not close it

    def __str__(self) -> str:
        return f"state {self.state_id} life {self.life} {'open' if self.is_open else 'closed'}"


class DirectoryLock:
    """The lock on a directory. The system releases it when the process ends, in any way."""

    def __init__(self, directory: Path, descriptor: int, voucher: Voucher | None) -> None:
        self.directory = directory
        self.voucher = voucher
        self._descriptor = descriptor
        self._watched: dict[Path, tuple[int, int]] = {}
        self.watch((directory / LOCK_FILE,))

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Hold a directory. Raises `StateError` if another kernel does, `OSError` as it comes."""
        descriptor = open_private(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)
        content = os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            raise _held_by_another(directory, content) from exc
        try:
            content = os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace")
            lock = cls(directory, descriptor, _voucher(content))
            lock.vouch(lock.voucher)
        except BaseException:
            os.close(descriptor)
            raise
        return lock

    def vouch(self, voucher: Voucher | None) -> None:
        """Write down, durably, which database is here. None: there was none."""
        text = f"{os.getpid()}\n" + (f"{voucher}\n" if voucher else "")
        content = text.encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))
        os.fsync(self._descriptor)
        self.voucher = voucher

    def vouch_closed(self) -> None:
        """Write down that the database was closed in order."""
        if self.voucher is not None:
            with suppress(OSError):  # without it the next start is only more careful
                self.vouch(replace(self.voucher, is_open=False))

    def watch(self, files: Iterable[Path]) -> None:
        """Have `require_held` check that these files are not replaced from now on."""
        for file in files:
            if (identity := _identity(file)) is not None:
                self._watched[file] = identity

    def require_held(self) -> None:
        """Raise `StateError` if the directory, or a file that is watched, was replaced."""
        for file, identity in self._watched.items():
            if _identity(file) != identity:
                raise StateError(
                    f"{file} was moved, removed or replaced while this kernel had it open; nothing "
                    "is written any longer. Put the directory back as it was, or close this kernel"
                )

    def release(self) -> None:
        """Release the directory. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _voucher(content: str) -> Voucher | None:
    found = _VOUCHER.search(content)
    return Voucher(found[1], int(found[2]), found[3] == "open") if found else None


def _held_by_another(directory: Path, content: str) -> StateError:
    holder = content.partition("\n")[0].strip()
    who = f"another kernel (process {holder})" if holder else "another kernel"
    return StateError(
        f"the state directory {directory} is used by {who}; end that one, or give this one a "
        "state.directory of its own (AIOS_STATE__DIRECTORY)"
    )
