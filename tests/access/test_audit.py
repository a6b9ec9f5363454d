"""The audit trail: everything that matters is in it, and whatever is done to it shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core import AccessDenied, Kernel, KernelConfig, StateError
from aios_core.access.anchor import HEAD_FILE, read_anchor, read_head
from aios_core.access.chain import GENESIS, Head, Row, link, verify
from aios_core.access.trail import SCHEMA, last_head, rows
from aios_core.cores.scripted import ScriptedCore
from aios_core.state import State


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
        return [json.loads(row.record) for row in state.database.read(lambda c: list(rows(c)))]
    finally:
        state.close()


def faults(directory: Path) -> tuple[str, ...]:
    state = State.open(directory)
    try:
        head = read_head(directory, state.vault)
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


async def test_the_chain_goes_on_in_the_next_kernel(tmp_path: Path) -> None:
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
    "cuts off the end": (
        lambda c: c.execute("DELETE FROM audit WHERE number > 3"),  # type: ignore[dict-item,return-value]
        "at the end",
    ),
    "cuts off all": (lambda c: c.execute("DELETE FROM audit"), "at the end"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_whoever_tampers_is_found(tmp_path: Path, name: str) -> None:
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


async def test_what_cannot_be_recorded_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.access.trail.RETRY_S", 0.01)
    async with kernel_on(tmp_path) as kernel:
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "one")
        trail = kernel._access.trail
        assert trail is not None
        await trail.flushed()
        state = await kernel._state.opened()
        await state.database.awrite(lambda c: c.execute("ALTER TABLE audit RENAME TO hidden"))

        await alice.memory.awrite("notes", "two")  # nobody knows yet
        with pytest.raises(StateError):
            await trail.flushed()
        with pytest.raises(StateError, match="the audit trail cannot be written"):
            await alice.memory.awrite("notes", "three")

        await state.database.awrite(lambda c: c.execute("ALTER TABLE hidden RENAME TO audit"))
        assert trail._writer is not None
        await trail._writer  # it goes on trying until all is written
        assert await alice.memory.aread("notes") == "two"
    assert faults(tmp_path) == ()


async def test_the_next_kernel_says_that_the_trail_was_cut(tmp_path: Path) -> None:
    await worked(tmp_path)
    connection = apsw.Connection(str(tmp_path / "state.db"))
    connection.execute("DROP TRIGGER audit_is_not_cut; DELETE FROM audit WHERE number > 2")
    connection.close()

    await worked(tmp_path)

    assert any(record["event"] == "broken" for record in records(tmp_path))


def chain(contents: list[bytes]) -> list[Row]:
    made, previous = [], GENESIS
    for number, content in enumerate(contents, 1):
        previous = link(previous, number, content)
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
def test_a_sound_chain_is_sound_and_vouched_for(contents: list[bytes]) -> None:
    made = chain(contents)

    report = verify(made, [Head(made[-1].number, made[-1].hash, 0.0)])

    assert report.is_intact
    assert report.num_anchored == len(contents)


def test_an_empty_trail_has_the_first_head(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.database.migrate("audit", SCHEMA)

    assert state.database.read(last_head) == Head(0, GENESIS, 0.0)
    state.close()
