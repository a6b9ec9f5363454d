"""Compare the files below `blobs/` with the database when a kernel starts.

A file that a row refers to stays. A file that was noted as garbage is removed, and so is an
incomplete one. Any other file is unaccounted for: a crash left it, or its row is lost. It is
moved to `unaccounted/`, never removed, and moved back if a row needs it again (after the
database was restored from a backup).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aios_core.private_files import PART, make_directory, tighten
from aios_core.state.blobs import BlobStore
from aios_core.state.completeness import incomplete
from aios_core.state.database import Connection

log = logging.getLogger(__name__)

UNACCOUNTED: Final = "unaccounted"
_MAX_LISTED: Final = 3


@dataclass(frozen=True, slots=True)
class _Rows:
    """The addresses of blobs in the database."""

    needed: AbstractSet[str]
    garbage: AbstractSet[str]
    lost: AbstractSet[str]  # missing, and a person accepted that

    @classmethod
    def read(cls, connection: Connection) -> _Rows:
        return cls(
            _addresses(connection, "SELECT address FROM blobs WHERE refs > 0"),
            _addresses(
                connection,
                "SELECT address FROM blob_garbage UNION SELECT address FROM blobs WHERE refs = 0",
            ),
            _addresses(connection, "SELECT address FROM lost_blobs"),
        )


def start_accounts(connection: Connection, blobs: BlobStore) -> None:
    """Make files and rows agree, in a transaction, before any blob is stored.

    Raises `StateError` if a file is missing that a row refers to.
    """
    if blobs.directory is None:
        return
    rows, folder = _Rows.read(connection), blobs.directory
    elsewhere = folder.with_name(UNACCOUNTED)
    found, unaccounted, garbage = _sort(folder, rows)
    found |= _bring_back(rows.needed - found, elsewhere, folder)
    missing = rows.needed - found - rows.lost
    if missing:
        raise incomplete(folder.parent, _missing(missing, len(rows.needed)))
    _set_aside(unaccounted, elsewhere)
    for file in garbage:
        file.unlink(missing_ok=True)
    connection.execute("DELETE FROM blob_garbage")
    connection.execute("DELETE FROM blobs WHERE refs = 0")


def accept_missing(connection: Connection, directory: Path) -> int:
    """Mark blobs without a file as lost, so that the rest can be served. Returns how many."""
    rows = _Rows.read(connection)
    places = (directory / "blobs", directory / UNACCOUNTED)
    found = {_address(file) for file in _files(places[0])}
    found |= {file.name for file in places[1].glob("*")}
    missing = rows.needed - found - rows.lost
    connection.executemany(
        "INSERT OR IGNORE INTO lost_blobs VALUES (?)", [(address,) for address in missing]
    )
    return len(missing)


def _sort(folder: Path, rows: _Rows) -> tuple[set[str], list[Path], list[Path]]:
    """Sort files into needed addresses, unaccounted files, and garbage."""
    found: set[str] = set()
    unaccounted: list[Path] = []
    garbage: list[Path] = []
    for file in _files(folder):
        address = _address(file)
        if address in rows.needed:
            tighten(file)
            found.add(address)
        elif address in rows.garbage or (file.name.startswith(".") and file.name.endswith(PART)):
            garbage.append(file)
        else:
            unaccounted.append(file)
    return found, unaccounted, garbage


def _bring_back(wanted: AbstractSet[str], elsewhere: Path, folder: Path) -> set[str]:
    """Move back files that were set aside and have a row again."""
    back = {address for address in wanted if (elsewhere / address).is_file()}
    for address in back:
        make_directory(folder / address[:2])
        (elsewhere / address).replace(folder / address[:2] / address[2:])
    return back


def _set_aside(unaccounted: list[Path], elsewhere: Path) -> None:
    if not unaccounted:
        return
    make_directory(elsewhere)
    for file in unaccounted:
        tighten(file)
        file.replace(elsewhere / _address(file))
    log.warning(
        "%d files below blobs belong to no row (left by a crash, or the row is lost); moved to "
        "%s now, and may be deleted once nothing is missed",
        len(unaccounted),
        elsewhere,
    )


def _files(folder: Path) -> Iterator[Path]:
    for below in sorted(folder.glob("*")):
        if below.is_dir() and not below.is_symlink():
            tighten(below)
            yield from below.iterdir()


def _address(file: Path) -> str:
    return file.parent.name + file.name


def _addresses(connection: Connection, query: str) -> set[str]:
    return {str(row[0]) for row in connection.execute(query)}


def _missing(missing: AbstractSet[str], num_needed: int) -> str:
    some = ", ".join(sorted(missing)[:_MAX_LISTED])
    more = f" and {len(missing) - _MAX_LISTED:,} more" if len(missing) > _MAX_LISTED else ""
    return f"{len(missing):,} of {num_needed:,} blobs are missing below blobs/: {some}{more}"
