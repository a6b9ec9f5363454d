"""The audit trail records every decision and effect, and any change of it is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core import AccessDenied, Kernel, KernelConfig, StateError, tool
from aios_core.access.audit.chain import GENESIS, Head, Row, chain_hash, verify
from aios_core.access.audit.heads import HEAD_FILE, read_anchor, read_head
from aios_core.access.audit.inspection import Inspection
from aios_core.access.audit.outbox import AuditOutbox
from aios_core.access.audit.record import SCHEMA, AuditRecord, last_head, rows
from aios_core.cores.scripted import ScriptedCore
from aios_core.permissions import Access, Resource, Right
from aios_core.state import NullCipher, State
from aios_core.state.acceptance import accept


def kernel_on(directory: Path, **access: Any) -> Kernel:
    config = KernelConfig.load(
        environ={}, state={"directory": str(directory)}, access={"approver": "allow", **access}
    )
    return Kernel(config, cores=[ScriptedCore("ok")])


async def worked(directory: Path, **access: Any) -> None:
    """A kernel in which something was allowed, something denied, and something shared."""
    async with kernel_on(directory, **access) as kernel:
        alice, bob = await kernel.aspawn("alice"), await kernel.aspawn("bob")
        await alice.memory.awrite("notes", "the secret")
        with pytest.raises(AccessDenied):
            await bob.memory.aread("diary", owner="default/alice")
        await alice.memory.ashare("notes", "*")
        await bob.llm.agenerate("hi")


def records(directory: Path) -> list[dict[str, Any]]:
    state = State.open(directory)
    try:
        return [
            json.loads(row.record or b"") for row in state.database.read(lambda c: list(rows(c)))
        ]
    finally:
        state.close()


def faults(directory: Path) -> tuple[str, ...]:
    state = State.open(directory)
    try:
        head = read_head(directory, state.cipher)
        report = verify(state.database.read(lambda c: list(rows(c))), [head] if head else [])
        return report.faults
    finally:
        state.close()


async def test_decisions_and_effects_are_in_it(tmp_path: Path) -> None:
    await worked(tmp_path)

    told = [(r["event"], r["agent"], r.get("action")) for r in records(tmp_path)]
    assert ("allowed", "default/alice", "memory.write") in told
    assert ("done", "default/alice", "memory.write") in told
    assert ("denied", "default/bob", "memory.read") in told
    assert ("approved", "default/alice", "access.grant") in told
    assert faults(tmp_path) == ()


async def test_no_secret_is_in_it_but_hashes_of_arguments(tmp_path: Path) -> None:
    await worked(tmp_path)

    text = json.dumps(records(tmp_path))
    assert "the secret" not in text
    assert "arguments_sha256" in text


async def test_models_are_in_it_where_all_is_wanted(tmp_path: Path) -> None:
    await worked(tmp_path / "effects")
    await worked(tmp_path / "all", audit="all")

    def asked(directory: Path) -> int:
        return sum(r.get("action") == "llm.generate" for r in records(directory))

    assert asked(tmp_path / "effects") == 0
    assert asked(tmp_path / "all") > 0


async def test_nothing_is_written_where_it_is_off(tmp_path: Path) -> None:
    await worked(tmp_path, audit="off")

    assert not (tmp_path / HEAD_FILE).exists()


async def test_the_chain_continues_in_the_next_kernel(tmp_path: Path) -> None:
    await worked(tmp_path)
    first = len(records(tmp_path))
    await worked(tmp_path)

    assert len(records(tmp_path)) == 2 * first
    assert faults(tmp_path) == ()


async def test_an_anchor_elsewhere_holds_the_head(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    await worked(tmp_path / "state", audit_anchor=str(anchor))

    assert read_anchor(anchor)[-1].number == len(records(tmp_path / "state"))


Tamper = Callable[[apsw.Connection], None]

TAMPERINGS: dict[str, tuple[Tamper, str]] = {
    "edits one": (
        lambda c: c.execute("UPDATE audit SET record = ? WHERE number = 2", (b"{}",)),  # type: ignore[dict-item,return-value]
        "record 2 is not what was written there",
    ),
    "removes one": (
        lambda c: c.execute("DELETE FROM audit WHERE number = 2"),  # type: ignore[dict-item,return-value]
        "record 2 is missing",
    ),
    "makes one a text": (
        lambda c: c.execute("UPDATE audit SET record = CAST(record AS TEXT) WHERE number = 2"),  # type: ignore[dict-item,return-value]
        "record 2 is not what was written there",
    ),
    "makes one a number": (
        lambda c: c.execute("UPDATE audit SET record = 5 WHERE number = 2"),  # type: ignore[dict-item,return-value]
        "record 2 is not what was written there",
    ),
    "makes a hash a text": (
        lambda c: c.execute("UPDATE audit SET hash = 'x' WHERE number = 2"),  # type: ignore[dict-item,return-value]
        "record 2 is not what was written there",
    ),
    "adds one before the first": (
        lambda c: c.execute("INSERT INTO audit VALUES (-1, x'', x'')"),  # type: ignore[dict-item,return-value]
        "record -1 was never written",
    ),
    "cuts off the end": (
        lambda c: c.execute("DELETE FROM audit WHERE number > 3"),  # type: ignore[dict-item,return-value]
        "at the end",
    ),
    "cuts off all": (lambda c: c.execute("DELETE FROM audit"), "at the end"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found(tmp_path: Path, name: str) -> None:
    tamper, told = TAMPERINGS[name]
    await worked(tmp_path)
    connection = apsw.Connection(str(tmp_path / "state.db"))
    connection.execute("DROP TRIGGER audit_is_not_edited; DROP TRIGGER audit_is_not_cut")
    tamper(connection)
    connection.close()

    assert any(told in fault for fault in faults(tmp_path)), faults(tmp_path)


async def test_a_slip_is_stopped_by_the_database(tmp_path: Path) -> None:
    await worked(tmp_path)
    connection = apsw.Connection(str(tmp_path / "state.db"))

    for statement in ("DELETE FROM audit", "UPDATE audit SET record = x''"):
        with pytest.raises(apsw.ConstraintError, match="only appended to"):
            connection.execute(statement)
    connection.close()


def rename(directory: Path, table: str, to: str) -> None:
    """Behind the kernel's back."""
    connection = apsw.Connection(str(directory / "state.db"))
    connection.execute(f"ALTER TABLE {table} RENAME TO {to}")
    connection.close()


async def test_what_cannot_be_recorded_is_not_done_but_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.access.audit.trail.RETRY_S", 0.01)
    ran: list[int] = []

    def look(n: int) -> str:
        """Look."""
        ran.append(n)
        return "seen"

    async with kernel_on(tmp_path) as kernel:
        await kernel.aload_tools(tool(read_only=True, trusted=True)(look))
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "one")
        trail = kernel._inside.parts.access.trail
        assert trail is not None
        await trail.flushed()
        rename(tmp_path, "audit", "hidden")

        with pytest.raises(StateError):  # the change shares the fate of its record
            await alice.memory.awrite("notes", "two")
        with pytest.raises(StateError):
            await trail.flushed()
        with pytest.raises(StateError, match="the audit trail cannot be written"):
            await alice.tools.arun("look", {"n": 1})
        assert await alice.memory.aread("notes") == "one"
        assert ran == []

        rename(tmp_path, "hidden", "audit")
        assert trail._writer is not None
        await trail._writer  # it tries again until all is written
        await alice.memory.awrite("notes", "three")
    assert faults(tmp_path) == ()


async def test_a_change_is_never_durable_before_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.access.audit.trail.WRITE_WITHIN_S", 3_600.0)  # by itself: never
    async with kernel_on(tmp_path) as kernel:
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "one")
        await alice.storage.awrite("plan", "two")
        await alice.storage.ashare("plan", "default/bob")

        told = Inspection(tmp_path, NullCipher())
        seen = [told.content(row) or {} for row in told.rows]

    allowed = [one["action"] for one in seen if one["event"] == "allowed"]
    assert allowed == ["memory.write", "storage.write", "access.grant"]


async def test_a_change_in_a_mount_waits_for_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mount").mkdir()
    config = KernelConfig.load(
        environ={},
        state={"directory": str(tmp_path / "state")},
        storage={"mounts": {"m": {"directory": str(tmp_path / "mount"), "mode": "write"}}},
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "one")
        trail = kernel._inside.parts.access.trail
        assert trail is not None
        monkeypatch.setattr("aios_core.access.audit.trail.RETRY_S", 0.01)
        rename(tmp_path / "state", "audit", "hidden")
        trail._fault = None

        with pytest.raises(StateError):
            await alice.storage.awrite("/mnt/m/a.txt", "x")
        assert not (tmp_path / "mount" / "a.txt").exists()
        rename(tmp_path / "state", "hidden", "audit")


async def test_nothing_that_belongs_in_the_trail_is_done_before_it_is_known_to_work() -> None:
    ran: list[int] = []

    def look(n: int) -> str:
        """Look."""
        ran.append(n)
        return "seen"

    async with kernel_on(Path("/proc/no-such-place")) as kernel:
        await kernel.aload_tools(tool(read_only=True, trusted=True)(look))
        alice = await kernel.aspawn("alice")
        outcomes = await asyncio.gather(
            *(alice.tools.arun("look", {"n": n}) for n in range(8)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == 8 * [StateError]
        assert ran == []
        assert (await alice.llm.agenerate("hi")).text == "ok"  # needs no state


async def test_a_record_that_cannot_be_encoded_stops_no_other(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    access = Access("x.y", Right.READ, Resource("x", None, "y"), {"deep": deep})
    state = State.open(tmp_path)
    state.database.migrate("audit", SCHEMA)
    outbox = AuditOutbox(keeps_arguments=False)
    outbox.begin(state.cipher)
    state.database.commit_hook = outbox
    outbox.add(AuditRecord(0.0, "allowed", 1, "default/a", access))

    state.database.write(lambda _connection: None)

    stored = state.database.read(lambda c: list(rows(c)))
    state.close()
    assert [json.loads(row.record or b"")["action"] for row in stored] == ["x.y"]
    assert outbox.num_waiting == 0


async def test_a_commit_that_is_undone_gives_its_records_back(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.database.migrate("audit", SCHEMA)
    outbox = AuditOutbox(keeps_arguments=False)
    outbox.begin(state.cipher)
    state.database.commit_hook = outbox
    outbox.add(AuditRecord(0.0, "allowed", 1, "default/a", None))

    def ruin(connection: apsw.Connection) -> None:
        connection.execute("ROLLBACK")
        raise OSError

    with pytest.raises(StateError):
        state.database.write(ruin)
    assert (outbox.num_waiting, outbox.num_written) == (1, 0)
    state.database.write(lambda _connection: None)
    assert (outbox.num_waiting, outbox.num_written) == (0, 1)
    state.close()


async def test_the_next_kernel_says_that_the_trail_was_cut(tmp_path: Path) -> None:
    await worked(tmp_path)
    connection = apsw.Connection(str(tmp_path / "state.db"))
    connection.execute("DROP TRIGGER audit_is_not_cut; DELETE FROM audit WHERE number > 2")
    connection.close()

    async with kernel_on(tmp_path) as kernel:
        alice = await kernel.aspawn("alice")
        with pytest.raises(
            StateError, match=r"ended at record 2, .*vouches for .*aios state accept"
        ):
            await alice.memory.awrite("notes", "lost?")
    accept(tmp_path)
    await worked(tmp_path)

    assert any(record["event"] == "broken" for record in records(tmp_path))
    told = Inspection(tmp_path, NullCipher()).verified().faults
    assert len(told) == 1
    assert "broken before record 3: it was cut: it ended at record 2" in told[0]


def chain(contents: list[bytes]) -> list[Row]:
    made, previous = [], GENESIS
    for number, content in enumerate(contents, 1):
        previous = chain_hash(previous, number, content)
        made.append(Row(number, content, previous))
    return made


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=8, unique=True), st.data())
def test_two_records_that_changed_places_are_found(contents: list[bytes], data: Any) -> None:
    made = chain(contents)
    at = data.draw(st.integers(0, len(made) - 2))
    first, second = made[at], made[at + 1]
    made[at] = Row(first.number, second.record, second.hash)
    made[at + 1] = Row(second.number, first.record, first.hash)

    assert not verify(made, []).is_intact


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=8))
def test_an_intact_chain_is_intact_and_vouched_for(contents: list[bytes]) -> None:
    made = chain(contents)

    report = verify(made, [Head(made[-1].number, made[-1].hash, 0.0)])

    assert report.is_intact
    assert report.num_anchored == len(contents)


def test_an_empty_trail_has_the_first_head(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.database.migrate("audit", SCHEMA)

    assert state.database.read(last_head) == Head(0, GENESIS, 0.0)
    state.close()
