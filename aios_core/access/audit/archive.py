"""Move old records of the audit trail from the database into files.

    audit/                        below the state directory, 0700
      1-10000.jsonl.zst           a line for each record, as it was stored, with its hash

One transaction deletes the archived records and stores, in the table of archives and as a
record of the trail itself, where the cut is and the hash at that point. So the chain
continues across the cut, whether or not the files still exist.

Blocking; for threads and commands.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zstandard

from aios_core.access.audit.chain import GENESIS, Head, Row
from aios_core.access.audit.record import rows_after
from aios_core.errors import StateError
from aios_core.private_files import make_directory, write_file
from aios_core.state import Cipher, Connection, State
from aios_core.state.disk_full import describe_os_error

FOLDER: Final = "audit"
ARCHIVED: Final = "archived"  # the event of the record that vouches for a cut
MAX_RECORDS: Final = 10_000  # of one archive


@dataclass(frozen=True, slots=True)
class Archive:
    """A range of records that was moved into a file."""

    first: int
    last: int
    previous: bytes  # the hash before the first record
    hash: bytes  # of the last one

    @property
    def file_name(self) -> str:
        return f"{self.first}-{self.last}.jsonl.zst"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the trail records about the archive."""
        return {"first": self.first, "last": self.last, "hash": self.hash.hex()}

    def start(self) -> Head:
        """Return the head before the first archived record."""
        return Head(self.first - 1, self.previous, 0.0)

    def end(self) -> Head:
        """Return the head at the cut, after which the database continues."""
        return Head(self.last, self.hash, 0.0, "the table of archives")


def archives_of(connection: Connection) -> list[Archive]:
    """List all archives, the oldest first."""
    query = "SELECT first, last, previous, hash FROM audit_archives ORDER BY first"
    return [
        Archive(int(first), int(last), bytes(previous), bytes(its_hash))
        for first, last, previous, its_hash in connection.execute(query)
    ]


def write_archive(state: State, before: float, head: Head) -> Archive | None:
    """Write the oldest records to a file, durably; None if none is older than `before`.

    They stay in the database until `cut` deletes them. The record that the `head` in its file
    vouches for stays, with all after it. Raises `StateError`.
    """
    if state.directory is None:
        return None
    previous, rows = state.database.read(lambda connection: _oldest(connection, head.number))
    old = list(_older_than(before, rows, state.cipher))
    if not old:
        return None
    archive = Archive(old[0].number, old[-1].number, previous, old[-1].hash or b"")
    folder = state.directory / FOLDER
    state.require_held()
    try:
        make_directory(folder)
        write_file(folder / archive.file_name, _encoded(old))
    except OSError as exc:
        raise StateError(
            f"the audit trail cannot be archived: {describe_os_error(exc, state.directory)}"
        ) from exc
    return archive


def cut(connection: Connection, archive: Archive) -> None:
    """Delete the records of an archive from the database, in a transaction."""
    connection.execute(
        "INSERT INTO audit_archives VALUES (?, ?, ?, ?)",
        (archive.first, archive.last, archive.previous, archive.hash),
    )
    connection.execute("DELETE FROM audit WHERE number <= ?", (archive.last,))


def read_archive(directory: Path, archive: Archive) -> list[Row] | None:
    """Read the records of an archive; None if its file is not here. Raises `StateError`."""
    file = directory / FOLDER / archive.file_name
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"{file} cannot be read: {exc}") from exc
    try:
        lines = zstandard.ZstdDecompressor().decompressobj().decompress(stored).splitlines()
        return [_row(json.loads(line)) for line in lines]
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as exc:
        raise StateError(f"{file} is not an archive of an audit trail: it was damaged") from exc


def _oldest(connection: Connection, below: int) -> tuple[bytes, list[Row]]:
    """Return the hash before the oldest records, and those of them with a number under `below`."""
    archives = archives_of(connection)
    start = archives[-1].end() if archives else Head(0, GENESIS, 0.0)
    rows = rows_after(connection, start.number, MAX_RECORDS)
    return start.hash, [row for row in rows if row.number < below]


def _older_than(before: float, rows: list[Row], cipher: Cipher) -> Iterator[Row]:
    """Yield records up to the first that is not older. A damaged one stays, for inspection."""
    for row in rows:
        try:
            content = json.loads(cipher.decrypt(row.record or b"", "audit", str(row.number)))
            is_old = float(content["at"]) < before
        except (StateError, ValueError, KeyError, TypeError):
            return
        if not is_old:
            return
        yield row


def _encoded(rows: list[Row]) -> bytes:
    lines = (
        json.dumps(
            {
                "number": row.number,
                "hash": (row.hash or b"").hex(),
                "record": base64.b64encode(row.record or b"").decode(),
            }
        )
        for row in rows
    )
    return zstandard.ZstdCompressor().compress("".join(f"{line}\n" for line in lines).encode())


def _row(content: Any) -> Row:
    return Row(
        int(content["number"]),
        base64.b64decode(content["record"], validate=True),
        bytes.fromhex(content["hash"]),
    )
