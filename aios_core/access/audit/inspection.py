"""Read and verify the audit trail of a state directory from outside its kernel.

Nothing is locked or written, so that a trail can be read while its kernel runs, and in a
read-only copy. Blocking; for commands.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from aios_core.access.audit.archive import ARCHIVED, Archive, archives_of, read_archive
from aios_core.access.audit.chain import Head, Row, VerificationReport, verify
from aios_core.access.audit.heads import read_head
from aios_core.access.audit.record import BROKEN, rows
from aios_core.errors import StateError
from aios_core.state import Cipher, Connection

_FLAGS: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


class Inspection:
    """All records of a trail and the heads that vouch for it, as they were at one moment.

    Raises `StateError` if there is no trail to read, or its head was forged.
    """

    def __init__(self, directory: Path, cipher: Cipher) -> None:
        self._cipher = cipher
        head = read_head(directory, cipher)  # first: the kernel may append meanwhile
        self.heads: tuple[Head, ...] = () if head is None else (head,)
        self._directory = directory
        self._kept, self._archives = _all_rows(directory / "state.db")

    @property
    def rows(self) -> Sequence[Row]:
        """All readable records, those in archives included."""
        archived: list[Row] = []
        for archive in self._archives:
            with suppress(StateError):
                archived += read_archive(self._directory, archive) or []
        return [*archived, *self._kept]

    def content(self, row: Row) -> dict[str, Any] | None:
        """Decode a record; None if it is damaged."""
        try:
            content = json.loads(self._cipher.decrypt(row.record or b"", "audit", str(row.number)))
        except (StateError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def verified(self, others: Iterable[Head] = ()) -> VerificationReport:
        """Verify the trail, and report faults that a kernel found when it started."""
        heads = (*self.heads, *others)
        archived = [self._verified(archive, heads) for archive in self._archives]
        start = self._archives[-1].end() if self._archives else None
        report = verify(self._kept, (*heads, *([start] if start else [])), start)
        found = tuple(
            f"the trail was broken before record {row.number}: {content.get('why', '')}"
            for row in self.rows
            if (content := self.content(row)) is not None and content.get("event") == BROKEN
        )
        return VerificationReport(
            report.num_records,
            (
                *(fault for one in archived for fault in one.faults),
                *self._unvouched_cut(),
                *report.faults,
                *found,
            ),
            report.num_anchored,
            tuple(note for one in archived for note in one.notes),
        )

    def _verified(self, archive: Archive, heads: Iterable[Head]) -> VerificationReport:
        """Verify one archive."""
        try:
            kept = read_archive(self._directory, archive)
        except StateError as exc:
            return VerificationReport(0, (str(exc),), 0)
        if kept is None:
            note = f"records {archive.first} to {archive.last} are in {archive.file_name}, not here"
            return VerificationReport(0, (), 0, (note,))
        inside = [head for head in heads if archive.first <= head.number <= archive.last]
        return verify(kept, (*inside, archive.end()), archive.start())

    def _unvouched_cut(self) -> tuple[str, ...]:
        """Report a cut that no record of the trail vouches for: a kernel did not make it."""
        if not self._archives:
            return ()
        wanted = {"event": ARCHIVED, **self._archives[-1].facts}
        for row in self._kept:
            content = self.content(row) or {}
            if content.items() >= wanted.items():
                return ()
        return (f"records up to {wanted['last']} are missing: no record states they were archived",)


def _all_rows(database: Path) -> tuple[list[Row], list[Archive]]:
    if not database.is_file():
        return [], []
    try:
        with _connected(database) as connection:
            query = "SELECT name FROM sqlite_schema WHERE name IN ('audit', 'audit_archives')"
            known = {row[0] for row in connection.execute(query)}
            archives = archives_of(connection) if "audit_archives" in known else []
            return (list(rows(connection)) if "audit" in known else []), archives
    except (apsw.Error, OSError) as exc:
        raise StateError(f"the audit trail in {database} cannot be read: {exc}") from exc


@contextmanager
def _connected(database: Path) -> Iterator[Connection]:
    """Open a read-only connection, even where SQLite cannot create its own files."""
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
