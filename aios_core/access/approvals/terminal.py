"""Ask the person at the terminal, on a thread, one question at a time.

The question is written to the terminal that the answer is read from, even if the program
has redirected its standard streams. A live display pauses for it.

Promise: keys typed before a question was shown do not answer it, and an agent's arguments
cannot move the cursor or hide a part of the question.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from aios_core.access.approvals.approval import ApprovalAnswer, ApprovalRequest
from aios_core.access.approvals.live_display import paused_display, stream_behind

NO_TERMINAL: Final = (
    "access.approver is 'terminal', and standard input is not a terminal; run the program "
    "in the foreground of one, or set access.approver to 'queue' (with a state.directory on "
    "disk; answer with `aios approvals`), or, if nothing needs to be asked, to 'allow'"
)


class TerminalApprover:
    """An approver that asks at a terminal, and reads the answer there.

    Args:
        descriptor: what to read the answer from; None: standard input, if it is a terminal.
        write: shows the question; None: write to the terminal that is read from.
    """

    def __init__(
        self, descriptor: int | None = None, write: Callable[[str], object] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._write = write
        self._turn = threading.Lock()  # guards the terminal

    @staticmethod
    def is_possible() -> bool:
        """Return whether standard input is a terminal that this process may read."""
        return _keyboard() is not None

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        descriptor = _keyboard() if self._descriptor is None else self._descriptor
        if descriptor is None:
            return ApprovalAnswer(False, reason=NO_TERMINAL)
        awake, wake = os.pipe()
        asking = asyncio.ensure_future(asyncio.to_thread(self._prompt, request, descriptor, awake))
        try:
            return await asyncio.shield(asking)
        finally:
            os.close(wake)

    def _prompt(self, request: ApprovalRequest, descriptor: int, awake: int) -> ApprovalAnswer:
        """Ask on a thread. Ends without an answer once the other end of `awake` closes."""
        try:
            while not self._turn.acquire(timeout=0.1):
                if _is_ready(awake, 0):
                    return ApprovalAnswer(False)
            try:
                with paused_display(), self._writing(descriptor) as write:
                    return _answer(request, descriptor, awake, write)
            finally:
                self._turn.release()
        finally:
            os.close(awake)

    @contextmanager
    def _writing(self, descriptor: int) -> Iterator[Callable[[str], object]]:
        """Yield a function that writes text to the terminal."""
        if self._write is not None:
            yield self._write
        elif (screen := _screen(descriptor)) is None:
            yield _write_error
        else:
            try:
                yield lambda text: os.write(screen, text.encode(errors="backslashreplace"))
            finally:
                os.close(screen)


def _answer(
    request: ApprovalRequest, descriptor: int, awake: int, write: Callable[[str], object]
) -> ApprovalAnswer:
    _discard_typed(descriptor)
    write(f"\n{request}\n{request.why}\nAllow this once? [y/N] ")
    ready = select.select([descriptor, awake], [], [])[0]
    if awake in ready:
        write("\n(no longer asked)\n")
        return ApprovalAnswer(False)
    typed = os.read(descriptor, 4096).decode(errors="replace")
    if not typed.endswith("\n"):  # the end of the input, as with Ctrl-D
        write("\n")
    return ApprovalAnswer(typed.strip().lower() in ("y", "yes"), by=f"{_user()}, at the terminal")


def _keyboard() -> int | None:
    """Return the descriptor of standard input, if a person at a terminal can answer there."""
    try:
        descriptor = sys.stdin.fileno()
        is_there = os.isatty(descriptor)
    except (AttributeError, OSError, ValueError):  # closed, replaced, or never there
        return None
    return descriptor if is_there and not _is_in_background(descriptor) else None


def _is_in_background(descriptor: int) -> bool:
    """Return whether reading would stop this process, since it runs in the background (`&`)."""
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:  # not the terminal that controls this process
        return False


def _screen(descriptor: int) -> int | None:
    """Open the terminal of a descriptor for writing; None: it has no name here."""
    with suppress(OSError):
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    return None


def _is_ready(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def _discard_typed(descriptor: int) -> None:
    """Discard keys typed before the question."""
    with suppress(ImportError, OSError):
        import termios  # noqa: PLC0415 - not on every system

        if os.isatty(descriptor):
            termios.tcflush(descriptor, termios.TCIFLUSH)


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return str(os.getuid())


def _write_error(text: str) -> None:
    stream = stream_behind(sys.stderr)
    if stream is not None:
        stream.write(text)
        stream.flush()
