"""The audit trail: decisions and outcomes, in order, durably.

`add` appends to a list. Waiting records go into the next commit of the database (see
`outbox`), so that no change survives a kill without the record that it was allowed. If no
commit comes within `WRITE_WITHIN_S`, a task makes one. The task also writes the head of the
chain and resolves `flushed`. `close` writes the rest. While the trail cannot be written,
`require_working` refuses; changes of the database need no refusal, since they fail together
with their records.

Belongs to the kernel's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aios_core.access.audit.archive import ARCHIVED, cut, write_archive
from aios_core.access.audit.chain import GENESIS, Head
from aios_core.access.audit.heads import (
    ANCHOR_EVERY_S,
    HEAD_FILE,
    append_anchor,
    read_head,
    write_head,
)
from aios_core.access.audit.outbox import AuditOutbox
from aios_core.access.audit.record import BROKEN, SCHEMA, AuditRecord, last_head
from aios_core.errors import KernelError, Overloaded, StateError
from aios_core.state import Connection, State, StateOpener
from aios_core.state.acceptance import take_acceptance
from aios_core.state.completeness import incomplete

log = logging.getLogger(__name__)

MAX_WAITING: Final = 100_000
WRITE_WITHIN_S: Final = 0.02
RETRY_S: Final = 1.0
ARCHIVE_EVERY_S: Final = 3_600.0
DAY_S: Final = 86_400.0


class AuditTrail:
    """The writer of the audit trail."""

    def __init__(
        self,
        state: StateOpener,
        now: Callable[[], float],
        *,
        keeps_arguments: bool = False,
        anchor: Path | None = None,
        days: float | None = None,
    ) -> None:
        self._state = state
        self._now = now
        self._anchor = anchor
        self._anchored_at = float("-inf")
        self._days = days
        self._archives_at = float("-inf")  # when to look for old records next
        self._outbox = AuditOutbox(keeps_arguments=keeps_arguments)
        self._writer: asyncio.Task[None] | None = None
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._fault: KernelError | None = None
        self._hurry = asyncio.Event()  # a caller waits, or the trail is closing
        self._is_closing = False
        self._kept: Head | None = None  # the head in the head file
        self.is_ready = False
        state.add_migrations("audit", SCHEMA)
        state.on_open(self._begin)

    def __repr__(self) -> str:
        outbox = self._outbox
        return f"<AuditTrail: {outbox.num_written} records written, {outbox.num_waiting} wait>"

    async def ready(self) -> None:
        """Wait until the trail is known to work, once in the lifetime of a kernel.

        Raises `StateError`; the next call tries again.
        """
        await self._state.open()  # which writes to the database
        self.is_ready = True

    def require_working(self) -> None:
        """Raise `StateError` if the trail cannot be written."""
        if self._fault is not None:
            raise StateError(
                "the audit trail cannot be written, so no tool runs and nothing outside the state "
                f"directory is changed: {self._fault}"
            ) from self._fault

    def require_room(self) -> None:
        """Raise `Overloaded` if the trail lags far behind."""
        if self._outbox.num_waiting > MAX_WAITING:
            raise Overloaded("the audit trail", MAX_WAITING, RETRY_S)

    def add(self, record: AuditRecord) -> None:
        """Add a record; it is written with the next commit, which comes soon."""
        self._outbox.add(record)
        self._start_writing()

    async def flushed(self) -> None:
        """Wait until all added records are durable. Raises `StateError` if they cannot be."""
        num_added = self._outbox.num_added
        if self._outbox.num_written >= num_added:
            return
        written = asyncio.get_running_loop().create_future()
        self._awaited.append((num_added, written))
        self._hurry.set()
        await written

    async def close(self) -> None:
        """Write the waiting records. Those that cannot be written are logged as lost."""
        self._is_closing = True
        self._hurry.set()
        if self._outbox.num_waiting:
            self._start_writing()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if num_lost := self._outbox.num_waiting:
            log.error("%d audit records are lost: %s", num_lost, self._fault)
        elif self._anchor is not None and self._outbox.num_written:
            await self._settle_anchor()

    # --- writing -----------------------------------------------------------------------------

    def _start_writing(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write_all())

    async def _write_all(self) -> None:
        rest_s = WRITE_WITHIN_S
        while self._outbox.num_waiting or self._outbox.head != self._kept:
            await self._rest(rest_s)
            try:
                await self._write()
            except KernelError as exc:
                if self._fault is None:
                    log.error("the audit trail cannot be written: %s", exc)  # noqa: TRY400 - the message is complete
                self._fault = exc
                self._resolve_waiters(exc)
                if self._is_closing:
                    return
                rest_s = RETRY_S
            else:
                self._fault, rest_s = None, WRITE_WITHIN_S

    async def _rest(self, seconds: float) -> None:
        """Let others commit first, unless a caller waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        if not self._is_closing:
            self._hurry.clear()

    def _resolve_waiters(self, fault: KernelError | None) -> None:
        """Resolve the futures of `flushed`, or fail those that wait if there is a fault."""
        rest = []
        num_written = self._outbox.num_written
        for target, future in self._awaited:
            if future.done():
                continue
            if target <= num_written:
                future.set_result(None)
            elif fault is not None:
                future.set_exception(fault)
            else:
                rest.append((target, future))
        self._awaited = rest

    async def _write(self) -> None:
        state = await self._state.open()
        if self._outbox.num_waiting:
            await state.database.awrite(_nothing)  # the waiting records go into this commit
        self._resolve_waiters(None)
        head = self._outbox.head
        if head is not None and head != self._kept and state.directory is not None:
            await asyncio.to_thread(_keep_head, state, state.directory, head)
        self._kept = head
        if self._anchor is not None and self._now() >= self._anchored_at + ANCHOR_EVERY_S:
            await self._settle_anchor()
        if self._days is not None and head is not None and self._now() >= self._archives_at:
            await self._archive_old(state, self._now() - self._days * DAY_S, head)

    async def _archive_old(self, state: State, before: float, head: Head) -> None:
        """Move some of the records that are old enough out of the database."""
        self._archives_at = self._now() + ARCHIVE_EVERY_S
        try:
            archive = await asyncio.to_thread(write_archive, state, before, head)
            if archive is None:
                return
            facts, why = archive.facts, f"older than access.audit_days = {self._days:g}"
            self._outbox.add(
                AuditRecord(self._now(), ARCHIVED, 0, "kernel", None, why, facts)
            )  # goes with the cut
            await state.database.awrite(lambda connection: cut(connection, archive))
            self._archives_at = self._now()  # there may be more
        except StateError as exc:  # the trail itself is sound
            log.error("%s", exc)  # noqa: TRY400 - the message is complete

    async def _settle_anchor(self) -> None:
        state = await self._state.open()
        head = await state.database.aread(last_head)
        self._anchored_at = self._now()
        try:
            if self._anchor is not None:
                stamped = Head(head.number, head.hash, self._anchored_at)
                await asyncio.to_thread(append_anchor, self._anchor, stamped)
        except StateError as exc:  # the trail itself is sound
            log.error("%s", exc)  # noqa: TRY400 - the message is complete

    def _begin(self, state: State) -> None:
        """Check, on the opening thread, that the trail continues where it ended; then join."""
        gap = _gap(state, self._now())
        first = None
        if gap is not None:
            log.error("the audit trail is broken: %s", gap)
            first = AuditRecord(self._now(), BROKEN, 0, "kernel", None, gap)
        self._outbox.begin(state.cipher, first)
        state.database.commit_hook = self._outbox


def _nothing(connection: Connection) -> None:
    """Work for a commit that only the audit trail needs."""


def _keep_head(state: State, directory: Path, head: Head) -> None:
    """Write the head to its file, unless the directory was replaced. Blocks."""
    state.require_held()
    write_head(directory, head, state.cipher)


def _gap(state: State, now: float) -> str | None:
    """Describe how the trail differs from its head file; None if it does not. Blocks.

    A head that does not fit is set aside, as evidence. A new trail gets one. Raises
    `StateError` if the head vouches for more records than exist, since the changes that they
    record are lost too, unless a person accepted that.
    """
    if state.directory is None:
        return None
    found = find_gap(state, is_accepted=state.database.write(take_acceptance))
    head_file = state.directory / HEAD_FILE
    if found is None and not head_file.exists():
        write_head(state.directory, Head(0, GENESIS, now), state.cipher)
    elif found is not None and head_file.exists():
        try:
            head_file.replace(head_file.with_name(f"{HEAD_FILE}.broken-{int(now)}"))
        except OSError as exc:
            raise StateError(f"{head_file} cannot be set aside: {exc}") from exc
    return found


def find_gap(state: State, *, is_accepted: bool = False) -> str | None:
    """Describe how the trail differs from its head file, as text. Changes nothing.

    Raises `StateError` if the head vouches for more records than there are, unless `is_accepted`.
    """
    if state.directory is None:
        return None
    last = state.database.read(last_head)
    try:
        head = read_head(state.directory, state.cipher)
    except StateError as exc:
        return str(exc)
    if head is None:
        return f"there are {last.number} records and no {HEAD_FILE}" if last.number else None
    if head.number > last.number:
        cut = f"it ended at record {last.number}, {HEAD_FILE} vouches for {head.number}"
        if not is_accepted:
            raise incomplete(state.directory, f"the audit trail was cut: {cut}")
        return f"it was cut: {cut}"
    kept = state.database.read(lambda connection: _hash_of(connection, head.number))
    if kept != head.hash:
        return f"record {head.number} is not the one that {HEAD_FILE} vouches for"
    return None


def _hash_of(connection: Connection, number: int) -> Any:
    if not number:
        return GENESIS
    row: Any = connection.execute("SELECT hash FROM audit WHERE number = ?", (number,)).fetchone()
    return row[0] if row else None
