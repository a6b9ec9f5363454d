"""Continue with an incomplete state directory, because a person decided to.

What does not fit is moved to `set-aside/<time>/` in the directory, so that it can still be
restored from there; nothing is removed. Blocking; for commands.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from aios_core.errors import StateError
from aios_core.private_files import make_directory
from aios_core.state.blob_accounts import accept_missing
from aios_core.state.blobs import SCHEMA
from aios_core.state.completeness import BLOBS, DATABASE, HEAD, LOG, DatabaseFiles
from aios_core.state.database import Connection, Database
from aios_core.state.directory_lock import DirectoryLock

SET_ASIDE: Final = "set-aside"
_ACCEPTED: Final = "accepted"  # a key of `meta`
_DATABASE_FILES: Final = (DATABASE, LOG, f"{DATABASE}-shm")
_REPLACED: Final = (*_DATABASE_FILES, BLOBS, HEAD, "chroma")


def accept(directory: Path) -> list[str]:
    """Make the next kernel accept an incomplete directory. Returns what was done, as lines of text.

    Raises `StateError` if a kernel has the directory open, or it cannot be written.
    """
    if not directory.is_dir():
        raise StateError(f"there is no state directory {directory}")
    try:
        with _locked(directory) as lock:
            if _is_usable(directory):
                return _continue_with(directory, lock)
            moved = set_aside(directory, _REPLACED)
            lock.vouch(None)
    except OSError as exc:
        raise StateError(f"the state directory {directory} cannot be used: {exc}") from exc
    return [*moved, "the next kernel starts with a new database"] if moved else []


def set_aside(directory: Path, names: tuple[str, ...]) -> list[str]:
    """Move files to `set-aside/`. Returns what was moved where, as text. Raises `OSError`."""
    here = [name for name in names if (directory / name).exists()]
    if not here:
        return []
    folder = directory / SET_ASIDE / time.strftime("%Y%m%dT%H%M%S")
    while folder.exists():
        folder = folder.with_name(folder.name + "+")
    make_directory(folder)
    for name in here:
        (directory / name).replace(folder / name)
    return [f"{name} was moved to {folder}" for name in here]


@contextmanager
def _locked(directory: Path) -> Iterator[DirectoryLock]:
    lock = DirectoryLock.acquire(directory)
    try:
        yield lock
    finally:
        lock.release()


def _is_usable(directory: Path) -> bool:
    """Return whether there is an undamaged database, the right one or another."""
    found = DatabaseFiles.look(directory)
    if found.is_empty or found.is_cut:
        return False
    try:
        with closing(Database(directory / DATABASE)) as database:
            names = database.read(lambda c: c.execute("PRAGMA quick_check(1)").fetchone())
            tables = database.read(
                lambda c: c.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone()
            )
    except StateError:
        return False
    return names == ("ok",) and tables is not None


def _continue_with(directory: Path, lock: DirectoryLock) -> list[str]:
    """Take the database as it is, and note the blobs that are missing as lost."""
    with closing(Database(directory / DATABASE)) as database:
        database.migrate("blobs", SCHEMA)
        num_lost = database.write(lambda connection: _accept(connection, directory))
    lock.vouch(None)
    done = ["the next kernel continues with the database that is here"]
    if num_lost:
        done.append(f"{num_lost:,} missing blobs are marked as lost; reading them fails")
    return done


def _accept(connection: Connection, directory: Path) -> int:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_ACCEPTED, b"1"))
    return accept_missing(connection, directory)


def take_acceptance(connection: Connection) -> bool:
    """Return whether a person accepted missing data since the last call, and reset that."""
    connection.execute("DELETE FROM meta WHERE key = ?", (_ACCEPTED,))
    return connection.changes() > 0
