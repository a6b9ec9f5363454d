"""Questions at a terminal are visible where they are answered, even if a program draws there."""

from __future__ import annotations

import asyncio
import io
import os
import select
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from rich.console import Console
from rich.live import Live

from aios_core.access.approvals.approval import ApprovalRequest
from aios_core.access.approvals.factory import build_approver
from aios_core.access.approvals.live_display import stream_behind
from aios_core.access.approvals.terminal import TerminalApprover
from aios_core.state import StateOpener

pty = pytest.importorskip("pty")

PATIENCE_S = 20.0  # spent only by a failure
REQUEST = ApprovalRequest(
    id="1",
    digest="",
    pid=1,
    agent="default/ann",
    action="tool.run",
    resource="tool:default/ann:pay",
    arguments={"text": "\x1b[2J[red]"},
    why="it cannot be undone: pays",
    asked_at=0.0,
    expires_at=1.0,
)


@dataclass
class Person:
    """Sees what the terminal shows, and types."""

    descriptor: int
    rest: bytes = b""  # shown, and not looked at

    async def sees(self, wanted: str) -> str:
        """Wait for a text; returns all that was shown until then."""
        return await asyncio.to_thread(self._read_until, wanted)

    def types(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def glance(self) -> str:
        """Return what has been shown since the last call."""
        while select.select([self.descriptor], [], [], 0)[0]:
            self.rest += os.read(self.descriptor, 4096)
        shown, self.rest = self.rest, b""
        return shown.decode()

    def _read_until(self, wanted: str) -> str:
        while wanted.encode() not in self.rest:
            if not select.select([self.descriptor], [], [], PATIENCE_S)[0]:
                pytest.fail(f"{wanted!r} was not shown, but {self.rest!r}")
            self.rest += os.read(self.descriptor, 4096)
        before, found, self.rest = self.rest.partition(wanted.encode())
        return (before + found).decode()


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    """Make a terminal this program's standard input, with a person who answers at it."""
    theirs, ours = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as raw, io.TextIOWrapper(raw) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield Person(theirs)
    os.close(theirs)


@pytest.fixture
def live(person: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A display for that terminal, to be started by the test.

    Between a fixture and its test, pytest takes the standard streams back.
    """
    del person
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(os.dup(sys.stdin.fileno()), "w") as screen:
        console = Console(file=screen, force_terminal=True, width=60, legacy_windows=False)
        display = Live("picture one", console=console, auto_refresh=False)
        yield display
        display.stop()


@pytest.mark.parametrize(("typed", "is_approved"), [("y\n", True), ("n\n", False), ("\x04", False)])
async def test_a_question_is_asked_and_answered_at_the_terminal(
    typed: str, is_approved: bool, person: Person
) -> None:
    asking = asyncio.ensure_future(TerminalApprover().ask(REQUEST))

    shown = await person.sees("Allow this once? [y/N] ")
    person.types(typed)

    assert (await asking).is_approved is is_approved
    assert "default/ann (pid 1): tool.run tool:default/ann:pay" in shown
    assert "\x1b[2J" not in shown


async def test_what_a_program_makes_of_its_standard_error_hides_no_question(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    asking = asyncio.ensure_future(TerminalApprover().ask(REQUEST))

    await person.sees("Allow this once? [y/N] ")
    person.types("y\n")

    assert (await asking).is_approved


async def test_a_live_display_pauses_for_a_question_and_continues_below_it(
    person: Person, live: Live
) -> None:
    live.start()
    live.update("picture two\n" * 5, refresh=True)
    assert TerminalApprover.is_possible()
    asking = asyncio.ensure_future(TerminalApprover().ask(REQUEST))
    await person.sees("Allow this once? [y/N] ")

    live.update("picture three", refresh=True)
    assert person.glance() == ""
    person.types("y\n")
    await asking

    after = await person.sees("picture three")
    assert "\x1b[1A" not in after  # the cursor does not go up into the question
    assert "\x1b[2J" not in after
    assert stream_behind(sys.stderr) is not sys.stderr  # it draws again
    live.update("picture four", refresh=True)
    await person.sees("picture four")


async def test_a_live_display_that_its_owner_ends_during_a_question_stays_ended(
    person: Person, live: Live
) -> None:
    live.start()
    asking = asyncio.ensure_future(TerminalApprover().ask(REQUEST))
    await person.sees("Allow this once? [y/N] ")

    live.update("the end")
    live.stop()
    person.types("n\n")
    await asking

    await person.sees("the end")
    assert not live.is_started
    assert stream_behind(sys.stderr) is sys.stderr


async def test_a_withdrawn_question_resumes_the_display(person: Person, live: Live) -> None:
    live.start()
    asking = asyncio.ensure_future(TerminalApprover().ask(REQUEST))
    await person.sees("Allow this once? [y/N] ")

    asking.cancel()

    await person.sees("(no longer asked)")
    await person.sees("picture one")
    assert live.is_started


async def test_without_a_terminal_the_approver_of_that_name_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    approver = build_approver("terminal", StateOpener(":memory:", lambda: None), lambda: 0.0)

    answer = await approver.ask(REQUEST)

    assert not answer.is_approved
    assert "standard input is not a terminal" in answer.reason
    assert "aios approvals" in answer.reason


def test_a_program_in_the_background_asks_elsewhere(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    del person
    assert TerminalApprover.is_possible()

    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)

    assert not TerminalApprover.is_possible()
