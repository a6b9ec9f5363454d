"""Everything that the kernel stores is private to its user, under any umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.access.approvals.approval import ApprovalRequest
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.cores.replay import RecordingCore
from aios_core.cores.scripted import ScriptedCore
from aios_core.private_files import make_directory, write_file
from aios_core.state import NullCipher, State

LARGE = b"much " * 10_000


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def loose(root: Path) -> list[str]:
    """Return the paths that other users have any right to."""
    return [
        f"{path} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in (root, *root.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]


def kernel_on(directory: Path, anchor: Path) -> Kernel:
    config = KernelConfig.load(
        environ={},
        state={"directory": str(directory)},
        access={"approver": "allow", "audit_anchor": str(anchor)},
    )
    core = RecordingCore(ScriptedCore("ok"), anchor.with_name("recording"))
    return Kernel(config, cores=[core])


@pytest.mark.usefixtures("umask")
async def test_all_that_a_kernel_makes_is_private(tmp_path: Path) -> None:
    directory, saved, anchor = tmp_path / "a" / "state", tmp_path / "b" / "saved", tmp_path / "head"
    async with kernel_on(directory, anchor) as kernel:
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "x" * 100_000)
        await alice.storage.awrite("a", LARGE)
        await alice.memory.ashare("notes", "*")
        assert loose(directory.parent) == []  # the log and the shared memory of SQLite too
        idle = await kernel.aspawn("idle")
        await kernel.asave_agent(idle.pid, saved)
    for place in (directory.parent, saved.parent, anchor, tmp_path / "recording"):
        assert loose(place) == []


@pytest.mark.usefixtures("umask")
async def test_questions_to_people_are_private(tmp_path: Path) -> None:
    request = ApprovalRequest("1", "d", 1, "default/a", "tool.run", "tool::pay", {}, "", 0.0, 1e12)
    ApprovalFiles(tmp_path, NullCipher()).post(request, frozenset(), 0.0)

    assert loose(tmp_path / "approvals") == []


def test_a_directory_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    state = State.open(directory)
    address = state.blobs.put(LARGE)
    state.database.write(lambda c: state.blobs.link(c, address))
    state.close()
    (directory / "audit.head").write_text("")
    (directory / "set-aside" / "then").mkdir(parents=True)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)

    state = State.open(directory)

    assert loose(directory) == []
    state.close()


def test_a_directory_with_other_things_keeps_its_own_mode(tmp_path: Path) -> None:
    """A project's folder is not taken from those who share it; what is the kernel's in it is."""
    directory = tmp_path / "project"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "main.py").touch(0o644)

    State.open(directory).close()

    assert sorted(map(str, loose(directory))) == [
        f"{directory} 755",
        f"{directory / 'main.py'} 644",
    ]


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    elsewhere.chmod(0o644)
    directory = tmp_path / "state"
    State.open(directory).close()
    (directory / "set-aside").symlink_to(elsewhere)

    State.open(directory).close()

    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


@pytest.mark.usefixtures("umask")
def test_new_directories_and_files_are_private(tmp_path: Path) -> None:
    make_directory(tmp_path / "x" / "y")
    write_file(tmp_path / "x" / "y" / "z", b"data")

    assert loose(tmp_path / "x") == []
