"""Old records of the audit trail go to files, and the chain holds across the cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from aios_core import Kernel, KernelConfig
from aios_core.access.audit.archive import ARCHIVED, FOLDER
from aios_core.access.audit.inspection import Inspection
from aios_core.access.audit.trail import DAY_S
from aios_core.cli import main
from aios_core.cores.scripted import ScriptedCore
from aios_core.state import Cipher, NullCipher, cipher_for

KEY = bytes(range(32))


class Clock:
    """Wall time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


async def lived(directory: Path, clock: Clock, text: str = "x", **config: Any) -> None:
    """A kernel in which something was written, at the time of the clock, and its records too."""
    state = {"directory": str(directory), **config.pop("state", {})}
    access = {"approver": "allow", "audit_days": 90, **config}
    loaded = KernelConfig.load(environ={}, state=state, access=access)
    async with Kernel(loaded, cores=[ScriptedCore("ok")]) as kernel:
        trail = kernel._inside.parts.access.trail
        assert trail is not None
        kernel._inside.parts.access._now = trail._now = clock
        kernel._inside.parts.gatekeeper._now = clock  # type: ignore[attr-defined]
        alice = await kernel.aspawn("alice")
        for number in range(3):
            await alice.memory.awrite(f"notes{number}", text)
        while trail._writer is not None and not trail._writer.done():
            await asyncio.wait([trail._writer])


def looked_over(directory: Path, cipher: Cipher | None = None) -> Inspection:
    return Inspection(directory, cipher or NullCipher())


def in_database(directory: Path) -> list[int]:
    connection = apsw.Connection(str(directory / "state.db"))
    try:
        return [row[0] for row in connection.execute("SELECT number FROM audit ORDER BY number")]
    finally:
        connection.close()


@pytest.fixture
async def archived(tmp_path: Path) -> Path:
    """A state directory with two archives."""
    clock = Clock()
    await lived(tmp_path, clock)
    for _ in range(2):
        clock.now += 91 * DAY_S
        await lived(tmp_path, clock)
    return tmp_path


async def test_records_are_kept_in_the_database_until_they_are_old(tmp_path: Path) -> None:
    clock = Clock()
    await lived(tmp_path, clock)
    before = in_database(tmp_path)
    clock.now += 89 * DAY_S
    await lived(tmp_path, clock)

    assert in_database(tmp_path)[: len(before)] == before
    assert not (tmp_path / FOLDER).exists()


def test_old_records_are_in_files_and_all_of_them_are_still_verified(archived: Path) -> None:
    trail = looked_over(archived)
    report = trail.verified()

    assert report.faults == ()
    assert report.notes == ()
    assert [row.number for row in trail.rows] == list(range(1, report.num_records + 1))
    assert in_database(archived)[0] > 1
    assert len(list((archived / FOLDER).iterdir())) == 2
    events = [content["event"] for row in trail.rows if (content := trail.content(row))]
    assert events.count(ARCHIVED) == 2


def test_a_removed_archive_file_is_reported_and_is_not_a_fault(
    archived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = sorted((archived / FOLDER).iterdir())
    first.unlink()

    report = looked_over(archived).verified()
    assert report.faults == ()
    assert f"are in {first.name}, not here" in report.notes[0]
    assert main(["audit", "verify", "--state-dir", str(archived)]) == 0
    assert first.name in capsys.readouterr().out


def damaged(directory: Path) -> None:
    file = min((directory / FOLDER).iterdir())
    file.write_bytes(file.read_bytes()[:-20])


def swapped(directory: Path) -> None:
    first, second = sorted((directory / FOLDER).iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def cut_further(directory: Path) -> None:
    connection = apsw.Connection(str(directory / "state.db"))
    number, its_hash = connection.execute(
        "SELECT number, hash FROM audit ORDER BY number LIMIT 1 OFFSET 2"
    ).fetchall()[0]
    connection.execute("UPDATE audit_archives SET last = last WHERE 0")
    connection.execute(
        "INSERT INTO audit_archives VALUES (?, ?, x'00', ?)", (number - 2, number, its_hash)
    )
    connection.execute("DELETE FROM audit WHERE number <= ?", (number,))
    connection.close()


def uncut(directory: Path) -> None:
    """Forget the archives, as if those records had never been."""
    connection = apsw.Connection(str(directory / "state.db"))
    connection.execute("DELETE FROM audit_archives")
    connection.close()


@pytest.mark.parametrize("harm", [damaged, swapped, cut_further, uncut])
def test_tampering_with_the_cut_is_found(archived: Path, harm: Any) -> None:
    harm(archived)

    assert looked_over(archived).verified().faults


def test_a_slip_is_still_stopped_by_the_database(archived: Path) -> None:
    connection = apsw.Connection(str(archived / "state.db"))
    with pytest.raises(apsw.ConstraintError, match="only appended to"):
        connection.execute("DELETE FROM audit")
    connection.close()


async def test_the_next_kernel_continues_after_the_cut(archived: Path) -> None:
    clock = Clock()
    clock.now += 300 * DAY_S
    await lived(archived, clock)

    assert looked_over(archived).verified().faults == ()


async def test_encrypted_records_stay_encrypted(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    clock, settings = Clock(), {"encryption_key": str(tmp_path / "key")}
    for _ in range(2):
        await lived(tmp_path / "s", clock, state=settings, audit_arguments=True)
        clock.now += 91 * DAY_S

    assert looked_over(tmp_path / "s", cipher_for(KEY)).verified().faults == ()
    (file,) = (tmp_path / "s" / FOLDER).iterdir()
    assert b"alice" not in file.read_bytes()


async def test_without_a_limit_they_stay(tmp_path: Path) -> None:
    clock = Clock()
    await lived(tmp_path, clock, audit_days=None)
    clock.now += 10_000 * DAY_S
    await lived(tmp_path, clock, audit_days=None)

    assert in_database(tmp_path)[0] == 1
