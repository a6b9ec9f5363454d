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
from aios_core.access.approvals.files import Mailbox
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
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path, NullCipher())


def test_a_question_is_seen_and_its_answer_taken_once(mailbox: Mailbox) -> None:
    mailbox.post(question(), frozenset(), 1.0)
    (seen,) = mailbox.waiting(1.0)
    assert seen == question()

    mailbox.answer(seen, ApprovalAnswer(True, "ann"))

    assert mailbox.take(seen.id, "d") == ApprovalAnswer(True, "ann")
    assert mailbox.take(seen.id, "d") is None


def test_an_answer_to_another_question_is_a_no(mailbox: Mailbox) -> None:
    mailbox.post(question(), frozenset(), 1.0)
    mailbox.answer(question(digest="other"), ApprovalAnswer(True, "ann"))

    taken = mailbox.take(question().id, "d")

    assert taken is not None
    assert not taken.is_approved


def test_a_question_ends_with_its_time(mailbox: Mailbox) -> None:
    mailbox.post(question(), frozenset(), 1.0)

    assert mailbox.waiting(101.0) == []
    assert not list(mailbox.directory.iterdir())


def test_a_question_is_found_by_the_beginning_of_its_id(mailbox: Mailbox) -> None:
    mailbox.post(question(1, "a"), frozenset(), 1.0)
    mailbox.post(question(0x10 << 56, "b"), frozenset(), 1.0)

    assert mailbox.find("00000", 1.0).digest == "a"
    with pytest.raises(NoSuchObject, match="no approval 'zz'"):
        mailbox.find("zz", 1.0)


def test_a_question_that_waits_from_a_dead_kernel_is_taken_up(mailbox: Mailbox) -> None:
    mailbox.post(question(1), frozenset(), 1.0)

    assert mailbox.post(question(2), frozenset(), 2.0) == question(1).id


def test_nobody_else_can_answer(mailbox: Mailbox) -> None:
    mailbox.post(question(), frozenset(), 1.0)
    assert stat.S_IMODE(mailbox.directory.stat().st_mode) == 0o700

    mailbox.directory.chmod(0o770)

    with pytest.raises(StateError, match="others could answer"):
        mailbox.take(question().id, "d")


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "approvals").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StateError, match="cannot be used"):
        Mailbox(tmp_path, NullCipher()).waiting(1.0)


async def test_an_approver_waits_for_the_answer_from_elsewhere(mailbox: Mailbox) -> None:
    approver = QueueApprover(mailbox, lambda: 1.0, poll_s=0.01)
    asking = asyncio.ensure_future(approver.ask(question()))
    while not (waiting := await asyncio.to_thread(mailbox.waiting, 1.0)):
        pass  # the thread's turn is the wait

    await asyncio.to_thread(mailbox.answer, waiting[0], ApprovalAnswer(True, "ann"))

    assert (await asking).is_approved
    assert mailbox.waiting(1.0) == []


async def test_a_person_can_copy_the_command_that_answers(
    mailbox: Mailbox, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = asyncio.ensure_future(QueueApprover(mailbox, time.time, poll_s=0.01).ask(due()))
    while not caplog.messages:
        await asyncio.to_thread(mailbox.waiting, time.time())  # the thread's turn is the wait

    (message,) = caplog.messages
    assert "for up to " in message
    assert "(or deny)" in message
    command = message.partition("terminal: aios ")[2].partition(" (or")[0]
    status = await asyncio.to_thread(main, shlex.split(command))

    assert (status, (await asking).is_approved) == (0, True)
    assert capsys.readouterr().out.startswith("approved: default/bob")


async def test_a_caller_that_leaves_takes_its_question_down(mailbox: Mailbox) -> None:
    approver = QueueApprover(mailbox, lambda: 1.0, poll_s=0.01)
    asking = asyncio.ensure_future(approver.ask(question()))
    while not await asyncio.to_thread(mailbox.waiting, 1.0):
        pass  # the thread's turn is the wait

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert mailbox.waiting(1.0) == []
