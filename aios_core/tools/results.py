"""Store results that are too large for an answer as blobs, and read them in parts.

They belong to the agent that made the call. When an agent's results take more than
`max_bytes`, its oldest ones are removed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable
from typing import Any, Final

from aios_core.errors import NoSuchObject, QuotaExceeded
from aios_core.state import Connection, State, StateOpener
from aios_core.tools.requests import StoredResult

HEAD_CHARACTERS: Final = 2_000


class StoredResults:
    """The stored results of all agents in one state directory."""

    def __init__(self, state: StateOpener, *, max_bytes: int) -> None:
        self._state = state
        self._max_bytes = max_bytes

    async def put(self, identity: str, result: bytes, labels: Iterable[str]) -> StoredResult:
        """Store a result durably.

        Args:
            identity: the agent that owns it.
            result: as UTF-8.
            labels: the sources of its content.

        Raises:
            QuotaExceeded: it is larger than all results of an agent may be.
            StateError: it cannot be written.
        """
        if len(result) > self._max_bytes:
            raise QuotaExceeded(
                identity,
                "bytes of stored results",
                limit=self._max_bytes,
                used=0,
                requested=len(result),
                hint="ask the tool for less, or raise tools.max_stored_bytes",
            )
        state = await self._state.open()
        reference = f"result:{secrets.token_hex(8)}"
        encrypted = state.cipher.encrypt(
            json.dumps(sorted(labels)).encode(), "tool_result", identity, reference
        )
        address = await asyncio.to_thread(state.blobs.put, result)

        def write(connection: Connection) -> bool:
            state.blobs.link(connection, address)
            connection.execute(
                "INSERT INTO tool_results SELECT ?, ?, coalesce(max(seq), 0) + 1, ?, ?, ? "
                "FROM tool_results WHERE identity = ?",
                (identity, reference, address, len(result), encrypted, identity),
            )
            return self._make_room(connection, state, identity)

        try:
            has_removed = await asyncio.shield(state.database.awrite(write))
        except asyncio.CancelledError:
            raise  # it may be stored without a reader, and is removed when room is needed
        except BaseException:
            state.blobs.release(address)
            raise
        if has_removed:
            await asyncio.to_thread(state.blobs.collect, state.database)
        head = result[: 4 * HEAD_CHARACTERS].decode("utf-8", "ignore")[:HEAD_CHARACTERS]
        return StoredResult(reference, len(result), head)

    async def get(self, identity: str, reference: str) -> tuple[str, frozenset[str]]:
        """Return a result as text, and its labels. Raises `NoSuchObject`."""
        state = await self._state.open()
        row = await state.database.aread(
            lambda connection: connection.execute(
                "SELECT address, labels FROM tool_results WHERE identity = ? AND reference = ?",
                (identity, reference),
            ).fetchone()
        )
        if row is None:
            raise NoSuchObject("stored result", reference)
        labels = json.loads(state.cipher.decrypt(row[1], "tool_result", identity, reference))
        text = await asyncio.to_thread(lambda: state.blobs.get(row[0]).decode())
        return text, frozenset(labels)

    def _make_room(self, connection: Connection, state: State, identity: str) -> bool:
        rows: list[Any] = connection.execute(
            "SELECT reference, address, num_bytes FROM tool_results WHERE identity = ? "
            "ORDER BY seq DESC",
            (identity,),
        ).fetchall()
        total, has_removed = 0, False
        for reference, address, num_bytes in rows:
            total += num_bytes
            if total > self._max_bytes:
                connection.execute(
                    "DELETE FROM tool_results WHERE identity = ? AND reference = ?",
                    (identity, reference),
                )
                state.blobs.unlink(connection, address)
                has_removed = True
        return has_removed
