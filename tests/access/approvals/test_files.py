"""Questions and answers that cross processes."""

from __future__ import annotations

import asyncio
import shlex
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core import NoSuchObject, StateError
from aios_core.access import ApprovalAnswer, ApprovalRequest
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.access.approvals.queue import QueueApprover
from aios_core.cli import main
from aios_core.state import NullCipher


def question(number: int = 1, digest: str = "d") -> ApprovalRequest:
    return ApprovalRequest(
        f"{number:016x}", digest, 1, "default/bob", "tool.run", "tool::pay", {"amount": 5},
        "it spends", 0.0, 100.0,
    )  # fmt: skip


def due() -> ApprovalRequest:
    """A question that waits by the clock of the machine."""
    now = time.time()
    return replace(question(), asked_at=now, expires_at=now + 600.0)


@pytest.fixture
def approval_files(tmp_path: Path) -> ApprovalFiles:
    return ApprovalFiles(tmp_path, NullCipher())


def test_a_question_is_seen_and_its_answer_taken_once(approval_files: ApprovalFiles) -> None:
    approval_files.post(question(), frozenset(), 1.0)
    (seen,) = approval_files.waiting(1.0)
    assert seen == question()

    approval_files.answer(seen, ApprovalAnswer(True, "ann"))

    assert approval_files.take(seen.id, "d") == ApprovalAnswer(True, "ann")
    assert approval_files.take(seen.id, "d") is None


def test_an_answer_to_another_question_is_a_no(approval_files: ApprovalFiles) -> None:
    approval_files.post(question(), frozenset(), 1.0)
    approval_files.answer(question(digest="other"), ApprovalAnswer(True, "ann"))

    taken = approval_files.take(question().id, "d")

    assert taken is not None
    assert not taken.is_approved


def test_a_question_expires(approval_files: ApprovalFiles) -> None:
    approval_files.post(question(), frozenset(), 1.0)

    assert approval_files.waiting(101.0) == []
    assert not list(approval_files.directory.iterdir())


def test_a_question_is_found_by_the_beginning_of_its_id(approval_files: ApprovalFiles) -> None:
    approval_files.post(question(1, "a"), frozenset(), 1.0)
    approval_files.post(question(0x10 << 56, "b"), frozenset(), 1.0)

    assert approval_files.find("00000", 1.0).digest == "a"
    with pytest.raises(NoSuchObject, match="no approval 'zz'"):
        approval_files.find("zz", 1.0)


def test_a_question_that_waits_from_a_dead_kernel_is_taken_up(
    approval_files: ApprovalFiles,
) -> None:
    approval_files.post(question(1), frozenset(), 1.0)

    assert approval_files.post(question(2), frozenset(), 2.0) == question(1).id


def test_no_other_user_can_answer(approval_files: ApprovalFiles) -> None:
    approval_files.post(question(), frozenset(), 1.0)
    assert stat.S_IMODE(approval_files.directory.stat().st_mode) == 0o700

    approval_files.directory.chmod(0o770)

    with pytest.raises(StateError, match="others could answer"):
        approval_files.take(question().id, "d")


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "approvals").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StateError, match="cannot be used"):
        ApprovalFiles(tmp_path, NullCipher()).waiting(1.0)


async def test_an_approver_waits_for_the_answer_from_elsewhere(
    approval_files: ApprovalFiles,
) -> None:
    approver = QueueApprover(approval_files, lambda: 1.0, poll_s=0.01)
    asking = asyncio.ensure_future(approver.ask(question()))
    while not (waiting := await asyncio.to_thread(approval_files.waiting, 1.0)):
        pass  # the thread's turn is the wait

    await asyncio.to_thread(approval_files.answer, waiting[0], ApprovalAnswer(True, "ann"))

    assert (await asking).is_approved
    assert approval_files.waiting(1.0) == []


async def test_a_person_can_copy_the_command_that_answers(
    approval_files: ApprovalFiles,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asking = asyncio.ensure_future(QueueApprover(approval_files, time.time, poll_s=0.01).ask(due()))
    while not caplog.messages:
        await asyncio.to_thread(
            approval_files.waiting, time.time()
        )  # the thread's turn is the wait

    (message,) = caplog.messages
    assert "for up to " in message
    assert "(or deny)" in message
    command = message.partition("terminal: aios ")[2].partition(" (or")[0]
    status = await asyncio.to_thread(main, shlex.split(command))

    assert (status, (await asking).is_approved) == (0, True)
    assert capsys.readouterr().out.startswith("approved: default/bob")


async def test_cancelling_a_request_removes_its_question(approval_files: ApprovalFiles) -> None:
    approver = QueueApprover(approval_files, lambda: 1.0, poll_s=0.01)
    asking = asyncio.ensure_future(approver.ask(question()))
    while not await asyncio.to_thread(approval_files.waiting, 1.0):
        pass  # the thread's turn is the wait

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert approval_files.waiting(1.0) == []
