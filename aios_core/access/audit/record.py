"""Records of the audit trail, and the table that they are appended to.

A record holds the SHA-256 of the arguments, and the values only if `keeps_arguments`.
Functions that take a connection run on the database's thread, or in a command.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.access.approvals.approval import encoded, to_plain_json
from aios_core.access.audit.chain import GENESIS, Head, Row, chain_hash
from aios_core.permissions import Access
from aios_core.state import Cipher, Connection

BROKEN: Final = "broken"  # the event of the record of a kernel that found the trail cut

# Triggers stop a mistake, not an attacker, whom the chain reveals.
SCHEMA: Final = (
    """
    CREATE TABLE audit (number INTEGER PRIMARY KEY, record BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE TRIGGER audit_is_not_edited BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END;
    CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END
    """,
    """
    CREATE TABLE audit_archives (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL
    );
    DROP TRIGGER audit_is_not_cut;
    CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
        WHEN NOT EXISTS (SELECT 1 FROM audit_archives WHERE OLD.number BETWEEN first AND last)
        BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END
    """,
)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One decision or effect."""

    at: float  # seconds since 1970
    event: str  # "allowed", "denied", "asked", "approved", "refused", "done", or an error's name
    pid: int
    agent: str  # its identity
    access: Access | None
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def encode(self, *, keeps_arguments: bool) -> bytes:
        """Encode for storage: JSON, equal for equal records."""
        content: dict[str, Any] = {
            "at": round(self.at, 6),
            "event": self.event,
            "pid": self.pid,
            "agent": self.agent,
        }
        if self.access is not None:
            content |= _described(self.access, keeps_arguments)
        if self.why:
            content["why"] = self.why
        if self.facts:
            content |= to_plain_json(self.facts)
        return encoded(content).encode()


def _described(access: Access, keeps_arguments: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "action": access.action,
        "right": str(access.right),
        "resource": str(access.resource),
    }
    if access.arguments:
        arguments = to_plain_json(access.arguments)
        if keeps_arguments:
            described["arguments"] = arguments
        else:
            text = encoded(arguments)
            described["arguments_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if access.also:
        described["also"] = [_described(one, keeps_arguments) for one in access.also]
    return described


def append_records(connection: Connection, records: Iterable[bytes], cipher: Cipher) -> Head:
    """Append records to the chain, in a transaction. Returns the new head."""
    head = last_head(connection)
    number, last = head.number, head.hash
    for record in records:
        number += 1
        stored = cipher.encrypt(record, "audit", str(number))
        last = chain_hash(last, number, stored)
        connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (number, stored, last))
    return Head(number, last, time.time())


def last_head(connection: Connection) -> Head:
    """Return the number and hash of the last record."""
    row: Any = connection.execute(
        "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return Head(int(row[0]), _bytes(row[1]) or b"", 0.0) if row else Head(0, GENESIS, 0.0)


def rows(connection: Connection) -> Iterator[Row]:
    """Yield all records in order."""
    for number, record, its_hash in connection.execute(
        "SELECT number, record, hash FROM audit ORDER BY number"
    ):
        yield Row(int(number), _bytes(record), _bytes(its_hash))


def rows_after(connection: Connection, number: int, limit: int) -> list[Row]:
    """Return the records after a number, in order."""
    found = connection.execute(
        "SELECT number, record, hash FROM audit WHERE number > ? ORDER BY number LIMIT ?",
        (number, limit),
    )
    return [Row(int(one), _bytes(record), _bytes(its_hash)) for one, record, its_hash in found]


def _bytes(value: Any) -> bytes | None:
    """Return bytes as they are, and None for any other value that was put there."""
    return bytes(value) if isinstance(value, bytes) else None
