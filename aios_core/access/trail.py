"""The audit trail: what was decided and what became of it, in order, for good.

`add` costs an append to a list; a task writes what has gathered, in one transaction,
on the database's thread, and then the head of the chain. What waits at the end is
written by `close`. While the trail cannot be written, `require_working` refuses.

Values of arguments are not in it unless `keeps_arguments`: their SHA-256 is.
Belongs to the kernel's loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aios_core.access.anchor import (
    ANCHOR_EVERY_S,
    HEAD_FILE,
    append_anchor,
    read_head,
    write_head,
)
from aios_core.access.approval import canonical
from aios_core.access.chain import GENESIS, Head, Row, link
from aios_core.errors import KernelError, Overloaded, StateError
from aios_core.permissions import Access
from aios_core.state import Connection, State, StateOpener, Vault

log = logging.getLogger(__name__)

MAX_WAITING: Final = 100_000
MAX_BATCH: Final = 2_000
RETRY_S: Final = 1.0

# Triggers stop a slip, not an attacker; the chain tells of him.
SCHEMA: Final = (
    """
    CREATE TABLE audit (number INTEGER PRIMARY KEY, record BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE TRIGGER audit_is_not_edited BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END;
    CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
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
        """As it is stored: JSON, always the same for the same record."""
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
        return canonical(content | self.facts).encode()


def _described(access: Access, keeps_arguments: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "action": access.action,
        "right": str(access.right),
        "resource": str(access.resource),
    }
    if access.arguments:
        text = canonical(access.arguments)
        if keeps_arguments:
            described["arguments"] = json.loads(text)
        else:
            described["arguments_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if access.also:
        described["also"] = [_described(one, keeps_arguments) for one in access.also]
    return described


class AuditTrail:
    """See the module."""

    def __init__(
        self,
        state: StateOpener,
        now: Callable[[], float],
        *,
        keeps_arguments: bool = False,
        anchor: Path | None = None,
    ) -> None:
        self._state = state
        self._now = now
        self._keeps_arguments = keeps_arguments
        self._anchor = anchor
        self._anchored_at = float("-inf")
        self._waiting: list[AuditRecord] = []
        self._num_added = 0
        self._num_written = 0
        self._writer: asyncio.Task[None] | None = None
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._fault: KernelError | None = None
        self._closing = asyncio.Event()
        self._is_continuous = False
        self._head: Head | None = None  # written to the database and not yet to the head file
        state.add_migrations("audit", SCHEMA)

    def __repr__(self) -> str:
        return f"<AuditTrail: {self._num_written} records written, {len(self._waiting)} wait>"

    def require_working(self) -> None:
        """Raise `StateError` if the trail cannot be written, `Overloaded` if it lags far behind."""
        if self._fault is not None:
            raise StateError(
                f"the audit trail cannot be written, so nothing is done that belongs in it: "
                f"{self._fault}"
            ) from self._fault
        if len(self._waiting) > MAX_WAITING:
            raise Overloaded("the audit trail", MAX_WAITING, RETRY_S)

    def add(self, record: AuditRecord) -> None:
        """Have a record written soon."""
        self._waiting.append(record)
        self._num_added += 1
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write_all())

    async def flushed(self) -> None:
        """Wait until all that was added is durable. Raises `StateError` if it cannot be."""
        if self._num_written >= self._num_added:
            return
        written = asyncio.get_running_loop().create_future()
        self._awaited.append((self._num_added, written))
        await written

    async def close(self) -> None:
        """Write what waits. What cannot be written is logged as lost."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._waiting:
            log.error("%d audit records are lost: %s", len(self._waiting), self._fault)
        elif self._anchor is not None and self._num_written:
            await self._settle_anchor()

    # --- writing -----------------------------------------------------------------------------

    async def _write_all(self) -> None:
        while self._waiting or self._head is not None:
            try:
                await self._write(self._waiting[:MAX_BATCH])
            except KernelError as exc:
                if self._fault is None:
                    log.exception("the audit trail cannot be written")
                self._fault = exc
                self._tell(exc)
                if self._closing.is_set():
                    return
                await self._pause()
            else:
                self._fault = None

    async def _pause(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait([closing], timeout=RETRY_S)
        closing.cancel()

    def _tell(self, fault: KernelError | None) -> None:
        """Answer those who wait for records to be written."""
        rest = []
        for target, future in self._awaited:
            if future.done():
                continue
            if fault is not None:
                future.set_exception(fault)
            elif target <= self._num_written:
                future.set_result(None)
            else:
                rest.append((target, future))
        self._awaited = rest

    async def _write(self, batch: list[AuditRecord]) -> None:
        state = await self._state.opened()
        num_new = len(batch)
        if not self._is_continuous:
            gap = await asyncio.to_thread(_gap, state, self._now())
            if gap is not None:
                log.error("the audit trail is broken: %s", gap)
                batch = [AuditRecord(self._now(), "broken", 0, "kernel", None, gap), *batch]
            self._is_continuous = True
        keeps = self._keeps_arguments

        def append(connection: Connection) -> Head:
            return append_records(
                connection, (one.encode(keeps_arguments=keeps) for one in batch), state.vault
            )

        if batch:
            self._head = await state.database.awrite(append)
            del self._waiting[:num_new]
            self._num_written += num_new
            self._tell(None)
        if self._head is not None and state.directory is not None:
            await asyncio.to_thread(write_head, state.directory, self._head, state.vault)
        self._head = None
        if self._anchor is not None and self._now() >= self._anchored_at + ANCHOR_EVERY_S:
            await self._settle_anchor()

    async def _settle_anchor(self) -> None:
        state = await self._state.opened()
        head = await state.database.aread(last_head)
        self._anchored_at = self._now()
        try:
            if self._anchor is not None:
                stamped = Head(head.number, head.hash, self._anchored_at)
                await asyncio.to_thread(append_anchor, self._anchor, stamped)
        except StateError as exc:  # the trail itself is sound
            log.error("%s", exc)  # noqa: TRY400 - the message says it all


# --- on the database's thread -----------------------------------------------------------------


def append_records(connection: Connection, records: Iterator[bytes], vault: Vault) -> Head:
    """Add records to the chain, in a transaction; its new head."""
    head = last_head(connection)
    number, last = head.number, head.hash
    for record in records:
        number += 1
        stored = vault.seal(record, "audit", str(number))
        last = link(last, number, stored)
        connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (number, stored, last))
    return Head(number, last, time.time())


def last_head(connection: Connection) -> Head:
    """The number and hash of the last record."""
    row: Any = connection.execute(
        "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return Head(int(row[0]), bytes(row[1]), 0.0) if row else Head(0, GENESIS, 0.0)


def rows(connection: Connection) -> Iterator[Row]:
    """All records in order."""
    for number, record, its_hash in connection.execute(
        "SELECT number, record, hash FROM audit ORDER BY number"
    ):
        yield Row(int(number), bytes(record), bytes(its_hash))


def _gap(state: State, now: float) -> str | None:
    """What lacks between the head that was kept and the trail; None if all is well.

    A head that does not fit is set aside, as evidence. A trail that begins gets one. Blocks.
    """
    if state.directory is None:
        return None
    last = state.database.read(last_head)
    try:
        head, found = read_head(state.directory, state.vault), None
    except StateError as exc:
        head, found = None, str(exc)
    if head is None and found is None and not last.number:
        write_head(state.directory, Head(0, GENESIS, now), state.vault)
        return None
    found = found or _mismatch(state, head, last)
    if found is not None and (head_file := state.directory / HEAD_FILE).exists():
        head_file.replace(head_file.with_name(f"{HEAD_FILE}.broken-{int(now)}"))
    return found


def _mismatch(state: State, head: Head | None, last: Head) -> str | None:
    if head is None:
        return f"there are {last.number} records and no {HEAD_FILE}"
    row: Any = state.database.read(
        lambda connection: connection.execute(
            "SELECT hash FROM audit WHERE number = ?", (head.number,)
        ).fetchone()
    )
    kept = bytes(row[0]) if row else GENESIS if not head.number else None
    if kept is None:
        return f"it ends at record {last.number}, {HEAD_FILE} vouches for {head.number}"
    if kept != head.hash:
        return f"record {head.number} is not the one that {HEAD_FILE} vouches for"
    return None
