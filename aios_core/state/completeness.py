"""Check that the database of a state directory belongs to its other files.

Checked before anything is opened or created. A directory with something missing is refused, so that
no kernel starts a new database next to old data, and no file is removed because its row is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aios_core.errors import StateError
from aios_core.state.directory_lock import Voucher

DATABASE: Final = "state.db"
LOG: Final = "state.db-wal"
BLOBS: Final = "blobs"
HEAD: Final = "audit.head"
_HEADER_BYTES: Final = 100  # https://www.sqlite.org/fileformat.html, "The Database Header"


@dataclass(frozen=True, slots=True)
class DatabaseFiles:
    """The database's files as they were before anything was opened."""

    size: int  # bytes of state.db; -1: it is missing
    log_size: int  # bytes of its write-ahead log; 0: there is none
    stated_size: int  # bytes, from the header; 0: the header does not contain it

    @classmethod
    def look(cls, directory: Path) -> DatabaseFiles:
        """Read the sizes and the header of the files. Raises `OSError` if they cannot be read."""
        return cls(
            _size(directory / DATABASE, missing=-1),
            _size(directory / LOG, missing=0),
            _stated_size(directory / DATABASE),
        )

    @property
    def is_empty(self) -> bool:
        return self.size <= 0

    @property
    def is_cut(self) -> bool:
        """Whether the end of the file is missing. With a log it may be: recovery restores it."""
        return not self.log_size and 0 < self.size < self.stated_size


def require_database(directory: Path, voucher: Voucher | None) -> DatabaseFiles:
    """Raise `StateError` if other files prove a database, but it is missing, empty or truncated."""
    found = DatabaseFiles.look(directory)
    if found.is_cut:
        raise incomplete(
            directory,
            f"{DATABASE} was truncated: it has {found.size:,} of its {found.stated_size:,} bytes",
        )
    if found.is_empty:
        refuse_to_begin(directory, found, voucher)
    return found


def refuse_to_begin(directory: Path, found: DatabaseFiles, voucher: Voucher | None) -> None:
    """Raise `StateError` if other files prove a database although none with tables is there."""
    if witnesses := _witnesses(directory, found, voucher):
        how = "missing" if found.size < 0 else "empty"
        raise incomplete(directory, f"{DATABASE} is {how}, and {witnesses} from before")


def require_same(
    directory: Path, found: DatabaseFiles, voucher: Voucher | None, kept: Voucher
) -> None:
    """Raise `StateError` if the lock vouches for another or a later database than `kept`.

    `kept` is what the database recorded when it was last opened; `is_open`: it was not closed.
    """
    if voucher is None:
        return
    if voucher.state_id != kept.state_id:
        raise incomplete(directory, f"{DATABASE} is not the one that was used here last")
    if voucher.life > kept.life:
        raise incomplete(
            directory,
            f"{DATABASE} is older than what was used here last, or its log ({LOG}) was removed: it "
            f"was opened {kept.life} times, the one before {voucher.life} times",
        )
    if voucher.life == kept.life and kept.is_open and voucher.is_open and not found.log_size:
        raise incomplete(
            directory, f"the last kernel did not close {DATABASE}, and its log ({LOG}) is missing"
        )


def incomplete(directory: Path, what: str) -> StateError:
    """Return the error for a directory from which something is missing, with ways to continue."""
    return StateError(
        f"the state directory {directory} is not complete: {what}. Nothing was changed. Restore "
        f"the whole directory from a backup, {DATABASE} together with its lock and blobs; or "
        f"run `aios state accept --state-dir {directory}`, which sets aside what does not fit, "
        "deletes nothing, and continues with the rest; or set another state.directory"
    )


def _witnesses(directory: Path, found: DatabaseFiles, voucher: Voucher | None) -> str:
    """Name the files that prove that there was a database, as text."""
    witnesses = []
    if found.log_size:
        witnesses.append(f"its log ({LOG})")
    if voucher is not None:
        witnesses.append("the lock")
    if (directory / HEAD).exists():
        witnesses.append(HEAD)
    if any((directory / BLOBS).glob("*/*")):
        witnesses.append(f"{BLOBS}/")
    verb = "is" if len(witnesses) == 1 else "are"
    return f"{' and '.join(witnesses)} {verb} there" if witnesses else ""


def _size(file: Path, *, missing: int) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return missing


def _stated_size(database: Path) -> int:
    try:
        with database.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return 0
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        return 0
    page_size = int.from_bytes(header[16:18], "big")
    if header[24:28] != header[92:96]:  # an old SQLite wrote it last: the count is not kept up
        return 0
    return (65_536 if page_size == 1 else page_size) * int.from_bytes(header[28:32], "big")
