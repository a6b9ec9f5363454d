"""`aios access`, `aios approvals` and `aios audit`, as a person uses them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import apsw
import pytest

from aios_core import ApprovalRefused, Kernel, KernelConfig
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


QUESTION = ["--action", "memory.read", "--resource", "memory:default/alice:notes"]


@pytest.mark.usefixtures("directory")
def test_explain_says_who_may_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    worked()

    assert main(["access", "explain", "--agent", "default/bob", *QUESTION]) == 0
    assert "allowed: granted" in capsys.readouterr().out
    assert main(["access", "explain", "--agent", "default/eve", *QUESTION]) == 1
    assert "denied: it belongs to another" in capsys.readouterr().out


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
    async with kernel("pending") as running:
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
