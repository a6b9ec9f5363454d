"""One process that runs tools (`aios_core.tools.process_main`), as the kernel holds it.

It is started under a guardian, which ends it with all that it started. It gets questions and
gives answers as JSON lines. Any thread may kill it; one at a time asks it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import IO, Any, Final

from aios_core.errors import InvalidArguments, ToolError
from aios_core.tools.guarded_program import KILL_S, Lifeline, ask_guardian_to_kill, kill_group
from aios_core.tools.strict_json import NotJSON, dump, parse

_MAX_LOAD_ANSWER: Final = 65_536
_ENDED_S: Final = 1.0


class ToolDied(ToolError):
    """Its process ended in the middle: nobody knows how far it came."""


class WorkerProcess:
    """A process for tools: empty at first, then of one source. `_killing` guards its end."""

    def __init__(self) -> None:
        """Start it; it gets ready by itself. Raises `OSError`."""
        self.source: tuple[str, str, str] | None = None  # what it has loaded
        self._killing = threading.Lock()
        self._lifeline = Lifeline()
        self._process = subprocess.Popen(  # noqa: S603 - this Python, and our own code
            self._lifeline.command([sys.executable, "-m", "aios_core.tools.process_main"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._lifeline.descriptor,),
        )
        self._lifeline.started()

    def load(self, tool: str, source: tuple[str, str, str]) -> None:
        """Load what a tool comes from, once. Blocks until the process has started, too.

        Raises `ToolError` if it cannot be loaded, or the process dies: no tool has run then.
        """
        if self.source == source:
            return
        module, path, digest = source
        question = dump({"load": {"module": module, "path": path, "digest": digest}})
        answer = self.ask(question, _MAX_LOAD_ANSWER)
        if not answer.endswith(b"\n"):
            raise ToolError(tool, "its process died while it started")
        value_of(tool, answer, _MAX_LOAD_ANSWER)
        self.source = source

    def ask(self, question: bytes, max_bytes: int) -> bytes:
        """Its answer, a whole line; without an end if it died, or answers with more than that."""
        stdin, stdout = self._pipes
        try:
            stdin.write(question + b"\n")
            stdin.flush()
            return stdout.readline(max_bytes)
        except (OSError, ValueError):
            return b""

    def wait_ended(self) -> None:
        """Give one that seems to have ended by itself a moment, so that it is known how."""
        with self._killing, contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDED_S)

    def kill(self) -> int:
        """End it and all that it started; how it ended. Any thread, any number of times."""
        with self._killing:  # once it is reaped, its number may be another's
            if self._process.returncode is None:
                ask_guardian_to_kill(self._process.pid)
                self._lifeline.cut()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return int(self._process.wait(KILL_S))
                kill_group(self._process.pid)
            self._lifeline.cut()
            return int(self._process.wait())

    def close(self) -> int:
        """Kill it, if it lives, and close its pipes; how it ended."""
        code = self.kill()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        return code

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a worker has pipes")
        return stdin, stdout


def value_of(tool: str, answer: bytes, max_bytes: int) -> Any:
    """The value that an answer holds. Raises the `ToolError` or `InvalidArguments` that it is."""
    try:
        told = parse(answer, max_bytes)
    except NotJSON as exc:
        raise ToolError(tool, f"returned no JSON value: {exc}") from exc
    if "faults" in told:
        raise InvalidArguments(tool, told["faults"])
    if "error" in told:
        raise ToolError(tool, str(told["error"]))
    return told["value"]
