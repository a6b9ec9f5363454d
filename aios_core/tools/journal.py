"""The effect journal: a durable log of tool calls with effects, written before they run.

    intent ──(the tool runs)──> done | failed | unknown ──(a person)──> took effect | had no effect

The intent of every call that is not read-only is durable before the tool starts, and its
outcome before the caller is answered. A kernel that dies in between leaves an intent without
an outcome; the next kernel recognizes it by its `boot`. A call that may be repeated is run
again with the same key. Any other is *in doubt*: neither it nor a call with equal arguments
runs before a person has resolved it.

The key identifies an intent of one agent for one tool. A repeat with the same key is
answered with the first outcome; with other arguments it is refused.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import Conflict, NoSuchObject, ToolInDoubt
from aios_core.state import Cipher, Connection, State, StateOpener
from aios_core.tools.requests import DoubtfulCall
from aios_core.tools.strict_json import dump, parse
from aios_core.tools.tool import Tool

COMPONENT: Final = "tools"
SCHEMA: Final = (
    """
    CREATE TABLE tool_calls (
        identity TEXT NOT NULL,
        tool TEXT NOT NULL,
        key TEXT NOT NULL,
        call_id TEXT NOT NULL UNIQUE,
        version TEXT NOT NULL,
        arguments_hash BLOB NOT NULL,
        arguments BLOB NOT NULL,
        is_repeatable INTEGER NOT NULL,
        boot TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,
        outcome TEXT,
        result BLOB,
        PRIMARY KEY (identity, tool, key)
    ) WITHOUT ROWID;
    CREATE INDEX tool_calls_open ON tool_calls (identity, tool) WHERE outcome IS NULL
        OR outcome = 'unknown';
    CREATE TABLE tool_secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE tool_results (
        identity TEXT NOT NULL,
        reference TEXT NOT NULL,
        seq INTEGER NOT NULL,
        address TEXT NOT NULL,
        num_bytes INTEGER NOT NULL,
        labels BLOB NOT NULL,
        PRIMARY KEY (identity, reference)
    ) WITHOUT ROWID
    """,
    "ALTER TABLE tool_calls ADD COLUMN labels TEXT NOT NULL DEFAULT '[]'",
)
MAX_KEPT_BYTES: Final = 1 << 20
_IN_DOUBT: Final = "((outcome IS NULL AND boot != :boot) OR outcome = 'unknown')"


@dataclass(frozen=True, slots=True)
class Intent:
    """A call with effects that is about to start."""

    identity: str
    tool: Tool
    arguments: Mapping[str, Any]
    call_id: str
    key: str
    keeps_result: bool  # a caller that gave a key may repeat the call and needs its result
    labels: frozenset[str] = frozenset()  # of the caller: the arguments may quote what it read


class ToolJournal:
    """The effect journal of one state directory. `wall` returns seconds since 1970."""

    def __init__(
        self, state: StateOpener, *, keep_s: float, wall: Callable[[], float] = time.time
    ) -> None:
        state.add_migrations(COMPONENT, SCHEMA)
        self._state = state
        self._keep_s = keep_s
        self._wall = wall
        self._boot = secrets.token_hex(8)
        self._is_pruned = False

    async def begin(self, intent: Intent) -> bytes | None:
        """EventLog an intent, durably.

        Returns:
            None if the tool has to run, or the result of an earlier call with this key.

        Raises:
            Conflict: the key was used for other arguments, or its call is still in flight.
            ToolInDoubt: this call, or an equal one, may have taken effect already.
            StateError: the intent could not be written.
        """
        state = await self._state.open()
        return await state.database.awrite(
            lambda connection: self._begin(connection, state, intent)
        )

    async def finish(self, intent: Intent, outcome: str, result: bytes | None = None) -> None:
        """EventLog how a call ended: "done", "failed" or "unknown"."""
        state = await self._state.open()
        about = ("tool_call", intent.identity, intent.call_id, "result")
        is_kept = result is not None and intent.keeps_result and len(result) <= MAX_KEPT_BYTES
        encrypted = state.cipher.encrypt(result, *about) if is_kept and result is not None else None
        ended_at = self._wall()

        def write(connection: Connection) -> None:
            connection.execute(
                "UPDATE tool_calls SET outcome = ?, result = ?, ended_at = ? WHERE call_id = ? "
                "AND (outcome IS NULL OR outcome = 'unknown')",
                (outcome, encrypted, ended_at, intent.call_id),
            )

        await state.database.awrite(write)

    async def withdraw(self, intent: Intent) -> None:
        """Remove the intent, if it was written, of a call that did not start after all."""
        state = await self._state.open()
        await state.database.awrite(
            lambda connection: connection.execute(
                "DELETE FROM tool_calls WHERE call_id = ?", (intent.call_id,)
            ).close()
        )

    async def in_doubt(self, identity: str) -> tuple[DoubtfulCall, ...]:
        """Return the calls in doubt of an agent, oldest first."""
        state = await self._state.open()
        query = (
            "SELECT call_id, tool, version, arguments, key, started_at, is_repeatable, labels "  # noqa: S608
            f"FROM tool_calls WHERE identity = :identity AND {_IN_DOUBT} ORDER BY started_at"
        )
        given = {"identity": identity, "boot": self._boot}
        rows: list[Any] = await state.database.aread(lambda c: c.execute(query, given).fetchall())
        return tuple(_doubtful_call(identity, state.cipher, *row) for row in rows)

    async def resolve(self, identity: str, call_id: str, *, took_effect: bool) -> None:
        """Record whether a call in doubt took effect.

        Raises:
            NoSuchObject: no call of that id is in doubt.
        """
        state = await self._state.open()
        outcome = "took effect" if took_effect else "had no effect"
        given = {
            "identity": identity,
            "call_id": call_id,
            "boot": self._boot,
            "outcome": outcome,
            "now": self._wall(),
        }

        def write(connection: Connection) -> int:
            connection.execute(
                "UPDATE tool_calls SET outcome = :outcome, ended_at = :now "  # noqa: S608
                f"WHERE identity = :identity AND call_id = :call_id AND {_IN_DOUBT}",
                given,
            )
            return connection.changes()

        if not await state.database.awrite(write):
            raise NoSuchObject("call in doubt", call_id)

    # --- inside a transaction ----------------------------------------------------------------

    def _begin(self, connection: Connection, state: State, intent: Intent) -> bytes | None:
        cipher, tool = state.cipher, intent.tool
        if not self._is_pruned:  # once for each kernel
            self._prune(connection)
        digest = self._hash(connection, cipher, intent.arguments)
        place = (intent.identity, tool.name, intent.key)
        row = connection.execute(
            "SELECT call_id, arguments_hash, boot, outcome, result FROM tool_calls "
            "WHERE identity = ? AND tool = ? AND key = ?",
            place,
        ).fetchone()
        if row is not None:
            call_id, known, boot, outcome, result = row
            if not hmac.compare_digest(known, digest):
                raise Conflict(
                    f"key {intent.key!r} was used for {tool.name!r} with other arguments; allowed: "
                    "one key for each intent"
                )
            if outcome == "done":
                if result is None:
                    raise Conflict(
                        f"the call of {tool.name!r} with key {intent.key!r} was done; "
                        "its result was not kept"
                    )
                return cipher.decrypt(result, "tool_call", intent.identity, call_id, "result")
            self._refuse_repeat(intent, boot, outcome)
            connection.execute(
                "DELETE FROM tool_calls WHERE identity = ? AND tool = ? AND key = ?", place
            )
        elif not tool.is_repeatable:
            self._refuse_doubtful(connection, intent, digest)
        encrypted = cipher.encrypt(
            dump(intent.arguments), "tool_call", intent.identity, intent.call_id, "arguments"
        )
        connection.execute(
            "INSERT INTO tool_calls (identity, tool, key, call_id, version, arguments_hash, "
            "arguments, is_repeatable, boot, started_at, labels) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *place,
                intent.call_id,
                tool.version,
                digest,
                encrypted,
                tool.is_repeatable,
                self._boot,
                self._wall(),
                json.dumps(sorted(intent.labels)),
            ),
        )
        return None

    def _prune(self, connection: Connection) -> None:
        connection.execute(
            "DELETE FROM tool_calls WHERE ended_at < ? AND outcome != 'unknown'",
            (self._wall() - self._keep_s,),
        )
        self._is_pruned = True

    def _refuse_repeat(self, intent: Intent, boot: str, outcome: str | None) -> None:
        """Raise unless a call with the key of an earlier one may start.

        Raises:
            Conflict: the earlier call took effect, or is still in flight.
            ToolInDoubt: it may have taken effect.
        """
        tool = intent.tool
        if outcome == "took effect":
            raise Conflict(
                f"the call of {tool.name!r} with key {intent.key!r} has taken effect; a new "
                "call needs a new idempotency_key"
            )
        if outcome is None and boot == self._boot:
            raise Conflict(
                f"the call of {tool.name!r} with key {intent.key!r} is still in flight; wait "
                "for its answer"
            )
        if outcome in (None, "unknown") and not tool.is_repeatable:
            raise _in_doubt(tool)

    def _refuse_doubtful(self, connection: Connection, intent: Intent, digest: bytes) -> None:
        """Raise `ToolInDoubt` if a call with equal arguments is in doubt.

        This one may be its repeat, by an agent that lost its memory of the first in a crash.
        """
        row = connection.execute(
            "SELECT 1 FROM tool_calls WHERE identity = :identity AND tool = :tool "  # noqa: S608
            f"AND arguments_hash = :digest AND {_IN_DOUBT}",
            {
                "identity": intent.identity,
                "tool": intent.tool.name,
                "digest": digest,
                "boot": self._boot,
            },
        ).fetchone()
        if row is not None:
            raise _in_doubt(intent.tool)

    @staticmethod
    def _hash(connection: Connection, cipher: Cipher, arguments: Mapping[str, Any]) -> bytes:
        """Return a salted hash of the arguments: from a plain hash, short ones could be guessed."""
        row = connection.execute("SELECT value FROM tool_secrets WHERE name = 'salt'").fetchone()
        if row is not None:
            salt = cipher.decrypt(row[0], "tool_secret", "salt")
        else:
            salt = secrets.token_bytes(32)
            encrypted = cipher.encrypt(salt, "tool_secret", "salt")
            connection.execute("INSERT INTO tool_secrets VALUES ('salt', ?)", (encrypted,))
        return hmac.digest(salt, dump(arguments), "sha256")


def _in_doubt(tool: Tool) -> ToolInDoubt:
    return ToolInDoubt(
        tool.name,
        "this call was started before, and it is unknown whether it took effect; a person has to "
        "check (agent.tools.in_doubt(), agent.tools.resolve())",
    )


def _doubtful_call(  # noqa: PLR0917 - a row
    identity: str,
    cipher: Cipher,
    call_id: str,
    tool: str,
    version: str,
    arguments: bytes,
    key: str,
    started_at: float,
    is_repeatable: int,
    labels: str,
) -> DoubtfulCall:
    opened = cipher.decrypt(arguments, "tool_call", identity, call_id, "arguments")
    return DoubtfulCall(
        call_id=call_id,
        tool=f"{tool}@{version}",
        arguments=parse(opened, len(opened)),
        idempotency_key=key,
        started_at=started_at,
        is_repeatable=bool(is_repeatable),
        labels=frozenset(json.loads(labels)),
    )
