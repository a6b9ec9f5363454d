"""`aios state`, as a person uses it on a state directory that a kernel refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aios_core.cli import main
from aios_core.state import State


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory in which something is kept, named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", str(tmp_path / "state"))
    state = State.open(tmp_path / "state")
    address = state.blobs.put(b"much " * 1_000)
    state.database.write(lambda connection: state.blobs.link(connection, address))
    state.close()
    return tmp_path / "state"


def test_a_whole_directory_is_complete(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "check"]) == 0
    assert f"{directory} is complete" in capsys.readouterr().out


def test_an_empty_database_is_told_and_accepted(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "state.db").write_bytes(b"")

    assert main(["state", "check"]) == 1
    assert "state.db is empty, and the lock and blobs/ are there" in capsys.readouterr().err
    assert main(["state", "accept"]) == 0
    assert "the next kernel starts with a new database" in capsys.readouterr().out
    assert main(["state", "check"]) == 0
    assert [file.name for file in directory.glob("set-aside/*/*")]


def test_a_database_that_is_restored_alone_is_refused_with_both_ways_to_go_on(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(directory, tmp_path / "backup")
    for _ in range(2):
        State.open(directory).close()  # later lives
    shutil.copy(tmp_path / "backup" / "state.db", directory / "state.db")

    assert main(["state", "check"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "state.db is older than what was used here last" in message
    assert "state.db together with its lock and blobs" in message
    assert f"run `aios state accept --state-dir {directory}`" in message

    lock = (directory / "lock").read_bytes()
    shutil.copy(tmp_path / "backup" / "lock", directory / "lock")
    assert main(["state", "check"]) == 0, "the first way"
    (directory / "lock").write_bytes(lock)
    assert main(["state", "accept"]) == 0
    assert main(["state", "check"]) == 0, "the second way"


def test_a_directory_in_use_is_not_touched(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State.open(directory)

    assert main(["state", "accept"]) == 1
    assert "is used by another kernel" in capsys.readouterr().err
    state.close()


@pytest.mark.parametrize("action", ["check", "accept"])
def test_a_directory_that_is_not_there_is_not_made(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["state", action, "--state-dir", str(tmp_path / "nowhere")]) == 1
    assert "there is no state directory" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
