"""Audit records on their way from the kernel's loop into the database: an outbox.

The loop adds records. The database's writing thread puts all waiting records into the next
transaction, before its other work. So a change is never durable without the records that
were added before it, and the records cost no extra commit. A transaction that is rolled
back returns its records, in order. (The transactional outbox pattern.)
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from aios_core.access.audit.chain import Head
from aios_core.access.audit.record import AuditRecord, append_records
from aios_core.state import Cipher, Connection
from aios_core.untrusted.arguments import exact_text
from aios_core.untrusted.third_party import type_name

log = logging.getLogger(__name__)


class AuditOutbox:
    """The records that wait for the next transaction. Its methods may be called on any thread."""

    def __init__(self, *, keeps_arguments: bool) -> None:
        self._keeps_arguments = keeps_arguments
        self._cipher: Cipher | None = None
        self._lock = threading.Lock()  # guards all that follows
        self._waiting: list[AuditRecord] = []
        self._num_taken = 0  # how many of the waiting records the running transaction has
        self._num_written = 0
        self._taken_head: Head | None = None
        self._head: Head | None = None

    @property
    def num_waiting(self) -> int:
        """Records that are not durable yet."""
        with self._lock:
            return len(self._waiting)

    @property
    def num_written(self) -> int:
        """Records that are durable."""
        with self._lock:
            return self._num_written

    @property
    def num_added(self) -> int:
        """All records that were added, written or not."""
        with self._lock:
            return self._num_written + len(self._waiting)

    @property
    def head(self) -> Head | None:
        """The last record that is durable; None before this kernel's first."""
        with self._lock:
            return self._head

    def add(self, record: AuditRecord) -> None:
        """Add a record; the next commit writes it."""
        with self._lock:
            self._waiting.append(record)

    def begin(self, cipher: Cipher, first: AuditRecord | None = None) -> None:
        """Start writing, since the database is open. `first` goes before all waiting records."""
        with self._lock:
            self._cipher = cipher
            if first is not None:
                self._waiting.insert(0, first)

    # --- on the database's thread ------------------------------------------------------------

    def before_commit(self, connection: Connection) -> None:
        """Append all waiting records to the chain."""
        with self._lock:
            cipher = self._cipher
            taken = () if cipher is None else tuple(self._waiting)
            self._num_taken = len(taken)
        if taken and cipher is not None:
            head = append_records(connection, map(self._encoded, taken), cipher)
            with self._lock:
                self._taken_head = head

    def after_commit(self, *, is_durable: bool) -> None:
        """Drop the records of a transaction that is durable; else let them wait again."""
        with self._lock:
            if is_durable and self._num_taken:
                del self._waiting[: self._num_taken]
                self._num_written += self._num_taken
                self._head = self._taken_head
            self._num_taken = 0

    def _encoded(self, record: AuditRecord) -> bytes:
        try:
            return record.encode(keeps_arguments=self._keeps_arguments)
        except Exception as exc:  # noqa: BLE001 - one bad record must not stop the others
            named = _named(record)
            log.error("a record of %s is without its arguments: %s", named, type_name(exc))  # noqa: TRY400 - they may be too deep to be shown
            bare = replace(record, access=None, why="", facts={"unreadable": True, **named})
            return bare.encode(keeps_arguments=False)


def _named(record: AuditRecord) -> dict[str, str]:
    """Name the action and resource of an access without its arguments, as exact texts."""
    if record.access is None:
        return {}
    try:
        named = {"action": record.access.action, "resource": str(record.access.resource)}
        return {key: exact_text(text) for key, text in named.items()}
    except Exception as exc:  # noqa: BLE001 - a text of a third-party class
        return {"resource": f"cannot be shown: {type_name(exc)}"}
