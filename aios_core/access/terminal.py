"""Ask whoever sits at the terminal. The question is asked on a thread, one at a time.

The question goes to the very terminal that the answer is read from, past everything that
a program puts before its standard streams, and a live display pauses for it.

Promise: what was typed before a question was shown does not answer it, and nothing
that an agent puts into its arguments can move the cursor or hide a part of them.
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

from aios_core.access.approval import ApprovalAnswer, ApprovalRequest
from aios_core.access.live_display import paused_display, stream_behind

NO_TERMINAL: Final = (
    "access.approver is 'terminal', and standard input is no terminal to ask at; run the program "
    "in the foreground of one, or set access.approver to 'pending' (with a state.directory on "
    "disk; answer with `aios approvals`), or, if nothing needs to be asked, to 'allow'"
)


class TerminalApprover:
    """Ask at a terminal, and read the answer there.

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
        """Whether a person can be asked: standard input is a terminal, and is ours to read."""
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
        """On a thread. Ends, with a no that nobody hears, once the other end of `awake` closes."""
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
        """A function that shows text where the person is."""
        if self._write is not None:
            yield self._write
        elif (screen := _screen(descriptor)) is None:
            yield _say
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
    said = os.read(descriptor, 4096).decode(errors="replace")
    if not said.endswith("\n"):  # the end of the input, as with Ctrl-D
        write("\n")
    return ApprovalAnswer(said.strip().lower() in ("y", "yes"), by=f"{_user()}, at the terminal")


def _keyboard() -> int | None:
    """The descriptor of standard input, if a person at a terminal can answer there."""
    try:
        descriptor = sys.stdin.fileno()
        is_there = os.isatty(descriptor)
    except (AttributeError, OSError, ValueError):  # closed, replaced, or never there
        return None
    return descriptor if is_there and not _is_in_background(descriptor) else None


def _is_in_background(descriptor: int) -> bool:
    """Return whether reading from the terminal would stop this process, as a shell's `&` has it."""
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
    """Forget what was typed before the question."""
    with suppress(ImportError, OSError):
        import termios  # noqa: PLC0415 - not on every system

        if os.isatty(descriptor):
            termios.tcflush(descriptor, termios.TCIFLUSH)


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return str(os.getuid())


def _say(text: str) -> None:
    stream = stream_behind(sys.stderr)
    if stream is not None:
        stream.write(text)
        stream.flush()
