"""Start programs so that they and their descendants end with this process, even if killed.

Each is the child of a guardian (`aios_core.guardian`), which leads a session of its own
and ends with the program's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aios_core.shielding import finish_shielded

KILL_S: Final = 6.0  # for a guardian to end what it guards, before its group is killed
_GUARDIAN: Final = str(Path(__file__).with_name("guardian.py"))


class Lifeline:
    """A pipe to a guardian: when it closes, the guardian ends its program.

    `_lock` guards the descriptors.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._theirs, self._ours = os.pipe()
        self._has_started = self._is_cut = False

    @property
    def descriptor(self) -> int:
        """The guardian's end of the pipe, for `pass_fds`."""
        return self._theirs

    def command(self, program: Sequence[str]) -> list[str]:
        """Return the command that runs a program under a guardian."""
        return [sys.executable, "-I", "-S", _GUARDIAN, str(self._theirs), *program]

    def started(self) -> None:
        """Close this process's copy of the guardian's end, once the guardian has started."""
        with self._lock:
            if not self._has_started:
                self._has_started = True
                os.close(self._theirs)

    def cut(self) -> None:
        """Make the guardian end the program and its descendants. Idempotent; any thread."""
        self.started()
        with self._lock:
            if not self._is_cut:
                self._is_cut = True
                os.close(self._ours)


async def start_guarded(
    lifeline: Lifeline, program: Sequence[str], **options: Any
) -> asyncio.subprocess.Process:
    """Start a program under a guardian, in a session of its own.

    If the await is cancelled, the program has ended before it returns. (asyncio itself would only
    kill the guardian, and the program would stay.)

    Args:
        lifeline: to the guardian; it is cut if the start fails.
        program: the program and its arguments.
        **options: of `asyncio.create_subprocess_exec`.

    Raises:
        OSError: the guardian cannot be started.
    """
    creation = asyncio.create_subprocess_exec(
        *lifeline.command(program),
        start_new_session=True,
        pass_fds=(lifeline.descriptor,),
        **options,
    )
    creating = asyncio.ensure_future(creation)
    try:
        process = await finish_shielded(creating)
    except BaseException:
        lifeline.cut()
        if creating.exception() is None:
            await finish_shielded(creating.result().wait())
        raise
    lifeline.started()
    return process


def ask_guardian_to_kill(pid: int) -> None:
    """Ask a guardian to kill all that it guards. The guardian must not have been reaped yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGUSR1)


def kill_group(pid: int) -> None:
    """Kill the process group of a guardian, including the guardian."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
