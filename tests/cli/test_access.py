"""`aios access`, `aios approvals` and `aios audit`, as a person uses them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from aios_core import ApprovalRefused, Kernel, KernelConfig, StateError
from aios_core.cli import main
from aios_core.cores.scripted import ScriptedCore


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory that the environment names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


def kernel(approver: str = "allow") -> Kernel:
    return Kernel(KernelConfig.load(access={"approver": approver}), cores=[ScriptedCore("ok")])


def worked() -> None:
    with kernel() as running:
        alice = running.spawn("alice")
        alice.memory.write("notes", "hello")
        alice.memory.share("notes", "default/bob")


def names(directory: Path) -> list[str]:
    """Return the names in a directory, without the head of the trail that is being replaced."""
    return sorted(path.name for path in directory.iterdir() if path.suffix != ".part")


QUESTION = ["--action", "memory.read", "--resource", "memory:default/alice:notes"]


@pytest.mark.usefixtures("directory")
def test_explain_says_who_may_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    worked()

    assert main(["access", "explain", "--agent", "default/bob", *QUESTION]) == 0
    assert "allowed: granted" in capsys.readouterr().out
    assert main(["access", "explain", "--agent", "default/eve", *QUESTION]) == 1
    assert "denied: it belongs to another, who has not shared it" in capsys.readouterr().out


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("wrong", [["--right", "own"], ["--arguments", "[1"]])
def test_a_wrong_question_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["access", "explain", "--agent", "default/bob", *QUESTION, *wrong]) == 1
    assert wrong[0].removeprefix("--") in capsys.readouterr().err


def test_a_sound_trail_is_sound_and_a_cut_one_is_found(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worked()
    assert main(["audit", "verify"]) == 0
    assert "all as they were written" in capsys.readouterr().out

    connection = apsw.Connection(str(directory / "state.db"))
    connection.execute("DROP TRIGGER audit_is_not_cut; DELETE FROM audit WHERE number > 1")
    connection.close()

    assert main(["audit", "verify"]) == 1
    assert "at the end" in capsys.readouterr().out


def tampered(directory: Path, statement: str) -> None:
    connection = apsw.Connection(str(directory / "state.db"))
    connection.execute(
        f"DROP TRIGGER audit_is_not_edited; DROP TRIGGER audit_is_not_cut; {statement}"
    )
    connection.close()


@pytest.mark.parametrize("record", ["CAST(record AS TEXT)", "7", "x'00'", "CAST('[1]' AS BLOB)"])
def test_a_record_that_is_none_any_more_is_a_fault(
    directory: Path, record: str, capsys: pytest.CaptureFixture[str]
) -> None:
    worked()
    tampered(directory, f"UPDATE audit SET record = {record} WHERE number = 1")  # noqa: S608

    assert main(["audit", "verify"]) == 1
    assert "record 1 is not what was written there" in capsys.readouterr().out
    assert main(["audit", "show"]) == 1
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown[0] == {"number": 1, "fault": "not what was written there"}


def test_a_cut_is_not_forgotten_by_the_next_kernel(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worked()
    tampered(directory, "DELETE FROM audit WHERE number > 2")
    with pytest.raises(StateError, match="aios state accept"):
        worked()
    assert main(["state", "check"]) == 1
    assert "is not complete: the audit trail was cut" in capsys.readouterr().err
    assert main(["state", "accept"]) == 0
    worked()

    assert main(["audit", "verify"]) == 1
    told = capsys.readouterr().out
    assert "the trail was broken before record 3: it was cut: it ended at record 2" in told


def test_the_trail_is_verified_beside_the_kernel_that_writes_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kernel() as running:
        running.spawn("alice").memory.write("notes", "hello")
        before = names(directory)
        assert main(["audit", "verify"]) == 0
        assert names(directory) == before
    assert "all as they were written" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
@pytest.mark.parametrize("is_closed", [True, False])
def test_the_trail_of_a_read_only_copy_is_verified(
    directory: Path, tmp_path: Path, *, is_closed: bool
) -> None:
    copy = tmp_path / "copy"
    with kernel() as running:
        running.spawn("alice").memory.write("notes", "hello")
        shutil.copytree(directory, copy)
    if is_closed:
        shutil.rmtree(copy)
        shutil.copytree(directory, copy)
    (copy / "state.db-shm").unlink(missing_ok=True)
    jail = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/mnt"]
    inside = [*jail, "--ro-bind", str(copy), "/mnt/copy", "--setenv", "TMPDIR", "/mnt"]
    aios = [sys.executable, "-m", "aios_core.cli", "audit", "verify", "--state-dir", "/mnt/copy"]
    done = subprocess.run([*inside, *aios], capture_output=True, text=True, check=False)  # noqa: S603

    assert (done.returncode, done.stderr) == (0, "")
    assert "all as they were written" in done.stdout


@pytest.mark.usefixtures("directory")
def test_approvals_of_a_directory_that_is_not_there_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["approvals", "--state-dir", "typo"]) == 1
    assert "there is no state directory typo" in capsys.readouterr().err


@pytest.mark.usefixtures("directory")
def test_the_trail_is_shown_record_by_record(capsys: pytest.CaptureFixture[str]) -> None:
    worked()

    assert main(["audit", "show", "-n", "2", "--agent", "default/alice"]) == 0

    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["action"] for record in shown] == ["access.grant", "access.grant"]


@pytest.mark.usefixtures("directory")
def test_without_a_state_there_is_a_clear_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify"]) == 1
    assert "there is no state directory" in capsys.readouterr().err
    assert main(["approvals"]) == 0
    assert "nothing waits" in capsys.readouterr().out


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("verb", ["approve", "deny"])
async def test_a_question_is_answered_from_elsewhere(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with kernel("queue") as running:
        alice = await running.aspawn("alice")
        asking = asyncio.ensure_future(alice.access.aask("send the letter"))
        waiting = ""
        while "send the letter" not in waiting:
            await asyncio.to_thread(main, ["approvals"])
            waiting = capsys.readouterr().out
        ticket = waiting.split()[0][:6]

        assert await asyncio.to_thread(main, ["approvals", verb, ticket, "--reason", "so"]) == 0

        if verb == "approve":
            await asking
        else:
            with pytest.raises(ApprovalRefused, match="so"):
                await asking
