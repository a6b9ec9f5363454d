"""The audit trail of a state directory, looked at from outside: for commands.

Nothing is locked and nothing written, so that a trail can be looked at beside the kernel
that writes it, and in a copy that is read-only. Blocking.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from aios_core.access.anchor import read_head
from aios_core.access.chain import Head, Report, Row, verify
from aios_core.access.record import BROKEN, rows
from aios_core.errors import StateError
from aios_core.state import Connection, Vault

_FLAGS: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


class Inspection:
    """All records of a trail and the heads that vouch for it, as they were at one moment.

    Raises `StateError` if there is no trail to read, or its head was forged.
    """

    def __init__(self, directory: Path, vault: Vault) -> None:
        self._vault = vault
        head = read_head(directory, vault)  # first: the kernel may go on meanwhile
        self.heads: tuple[Head, ...] = () if head is None else (head,)
        self.rows: Sequence[Row] = _all_rows(directory / "state.db")

    def content(self, row: Row) -> dict[str, Any] | None:
        """What a record says; None if it is none."""
        try:
            content = json.loads(self._vault.open(row.record or b"", "audit", str(row.number)))
        except (StateError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def verified(self, others: Iterable[Head] = ()) -> Report:
        """What is wrong with the trail, and what a kernel found to be wrong before it went on."""
        report = verify(self.rows, (*self.heads, *others))
        found = tuple(
            f"the trail was broken before record {row.number}: {content.get('why', '')}"
            for row in self.rows
            if (content := self.content(row)) is not None and content.get("event") == BROKEN
        )
        return Report(report.num_records, (*report.faults, *found), report.num_anchored)


def _all_rows(database: Path) -> list[Row]:
    if not database.is_file():
        return []
    try:
        with _connected(database) as connection:
            known = connection.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = 'audit'"
            ).fetchone()
            return list(rows(connection)) if known else []
    except (apsw.Error, OSError) as exc:
        raise StateError(f"the audit trail in {database} cannot be read: {exc}") from exc


@contextmanager
def _connected(database: Path) -> Iterator[Connection]:
    """A connection that only reads, whether or not SQLite can put its own files beside it."""
    log = database.with_name(f"{database.name}-wal")
    try:
        connection = _connect(database, "mode=ro")
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        if not log.exists() or not log.stat().st_size:
            with closing(_connect(database, "immutable=1")) as connection:
                yield connection
            return
        with tempfile.TemporaryDirectory(prefix="aios-audit-") as folder:  # it needs recovery
            for file in (database, log):
                shutil.copyfile(file, Path(folder) / file.name)
            with closing(_connect(Path(folder) / database.name, "mode=rw")) as connection:
                yield connection
        return
    with closing(connection):
        yield connection


def _connect(database: Path, how: str) -> Connection:
    flags = _FLAGS if how != "mode=rw" else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    connection = Connection(f"file:{quote(str(database.absolute()))}?{how}", flags=flags)
    try:
        connection.set_busy_timeout(5_000)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection
