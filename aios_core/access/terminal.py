"""Ask whoever sits at the terminal. The question is asked on a thread, one at a time.

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
from collections.abc import Callable
from contextlib import suppress

from aios_core.access.approval import ApprovalAnswer, ApprovalRequest


class TerminalApprover:
    """See the module. `descriptor` None: standard input; `write` None: to standard error."""

    def __init__(
        self, descriptor: int | None = None, write: Callable[[str], object] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._write = write or _say
        self._turn = threading.Lock()  # guards the terminal

    @staticmethod
    def is_possible() -> bool:
        """Whether somebody can be asked."""
        return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        awake, wake = os.pipe()
        asking = asyncio.ensure_future(asyncio.to_thread(self._prompt, request, awake))
        try:
            return await asyncio.shield(asking)
        finally:
            os.close(wake)

    def _prompt(self, request: ApprovalRequest, awake: int) -> ApprovalAnswer:
        """On a thread. Ends, with a no that nobody hears, once the other end of `awake` closes."""
        try:
            while not self._turn.acquire(timeout=0.1):
                if _is_ready(awake, 0):
                    return ApprovalAnswer(False)
            return self._prompt_in_turn(request, awake)
        finally:
            os.close(awake)

    def _prompt_in_turn(self, request: ApprovalRequest, awake: int) -> ApprovalAnswer:
        try:
            descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor
            _discard_typed(descriptor)
            self._write(f"\n{request}\n{request.why}\nAllow this once? [y/N] ")
            ready = select.select([descriptor, awake], [], [])[0]
            if awake in ready:
                self._write("\n(no longer asked)\n")
                return ApprovalAnswer(False)
            said = os.read(descriptor, 4096).decode(errors="replace").strip().lower()
            return ApprovalAnswer(said in ("y", "yes"), by=f"{_user()}, at the terminal")
        finally:
            self._turn.release()


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
    sys.stderr.write(text)
    sys.stderr.flush()
