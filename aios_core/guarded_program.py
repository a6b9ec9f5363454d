"""Start programs so that they and their descendants end with this process, even if killed.

Each is the child of a guardian (`aios_core.guardian`), which leads a session of its own
and ends with the program's status.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

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


def ask_guardian_to_kill(pid: int) -> None:
    """Ask a guardian to kill all that it guards. The guardian must not have been reaped yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGUSR1)


def kill_group(pid: int) -> None:
    """Kill the process group of a guardian, including the guardian."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
