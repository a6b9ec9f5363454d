"""The kernel's side of a process that runs tools (`aios_core.tools.process_main`).

It is started under a guardian, which ends it with all its descendants. Questions and answers
are JSON lines. One thread at a time may ask; any thread may kill.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import IO, Any, Final

from aios_core.errors import InvalidArguments, ToolError
from aios_core.guarded_program import KILL_S, Lifeline, ask_guardian_to_kill, kill_group
from aios_core.tools.strict_json import NotJSON, dump, parse

_MAX_LOAD_ANSWER: Final = 65_536
_ENDED_S: Final = 1.0


class ToolDied(ToolError):
    """The tool's process ended during a call, so it is unknown whether the call took effect."""


class ToolProcess:
    """A process for tools: without a source at first, then with one. `_killing` guards its end."""

    def __init__(self) -> None:
        """Start the process without waiting until it is ready. Raises `OSError`."""
        self.source: tuple[str, str, str] | None = None  # that it has loaded
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
        """Load the source of a tool, unless it is loaded. Blocks until the process is ready.

        Raises:
            ToolError: the source cannot be loaded, or the process died; no tool has run.
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
        """Ask a question and return the answer: a line, or a part of it without its end.

        The end is missing if the process died, or the answer has more than `max_bytes`.
        """
        stdin, stdout = self._pipes
        try:
            stdin.write(question + b"\n")
            stdin.flush()
            return stdout.readline(max_bytes)
        except (OSError, ValueError):
            return b""

    def wait_ended(self) -> None:
        """Wait a moment for a process that seems to have ended, to get its exit status."""
        with self._killing, contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDED_S)

    def kill(self) -> int:
        """Kill the process and its descendants. Returns its exit status. Idempotent; any thread."""
        with self._killing:  # once it is reaped, its pid may belong to another process
            if self._process.returncode is None:
                ask_guardian_to_kill(self._process.pid)
                self._lifeline.cut()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return int(self._process.wait(KILL_S))
                kill_group(self._process.pid)
            self._lifeline.cut()
            return int(self._process.wait())

    def close(self) -> int:
        """Kill the process and close its pipes. Returns its exit status."""
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
    """Return the value of an answer, or raise the `ToolError` or `InvalidArguments` in it."""
    try:
        fields = parse(answer, max_bytes)
    except NotJSON as exc:
        raise ToolError(tool, f"did not return a JSON value: {exc}") from exc
    if "faults" in fields:
        raise InvalidArguments(tool, fields["faults"])
    if "error" in fields:
        raise ToolError(tool, str(fields["error"]))
    return fields["value"]
