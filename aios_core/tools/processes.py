"""Tools in processes of their own, which can be killed: for code that hangs or dies.

A process is Python with `aios_core.tools.worker`, started for the file or module that
a tool comes from, and kept for its next calls. It gets arguments and gives results
as JSON lines; there is no pickle, no shell and no kernel in it. This isolates faults,
not malice: a process has its user's rights. Strangers' code belongs into the sandbox.

`_lock` guards the idle processes. Runs on the tools' threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from aios_core.errors import InvalidArguments, InvalidRequest, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.strict_json import NotJSON, dump, parse
from aios_core.tools.tool import Tool

_MAX_IDLE: Final = 4
_MARGIN: Final = 4_096  # bytes of an answer besides the result


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tool's function is found again by another process."""

    module: str
    name: str  # of the tool
    path: str = ""  # the file, if it is no importable module
    digest: str = ""  # SHA-256 of the source when it was loaded; "" for a first import

    @classmethod
    def of(cls, tool: Tool) -> Origin:
        """Raises `InvalidRequest` if another process cannot find the function."""
        function = tool.function
        module = str(getattr(function, "__module__", ""))
        found = sys.modules.get(module)
        path = getattr(found, "__aios_path__", "")
        digest = getattr(found, "__aios_digest__", "")
        if found is None or module == "__main__" or (not path and _is_unimportable(found)):
            raise InvalidRequest(
                f"tool {tool.name!r} is to run in a process of its own, which has to import it: "
                f"put it into a module or a file, not into {module!r}"
            )
        return cls(module, tool.name, path, digest)


class ToolDied(ToolError):
    """Its process ended in the middle: nobody knows how far it came."""


class _Process:
    """One worker."""

    def __init__(self) -> None:
        self._killing = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aios_core.tools.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # killed with all that it started
        )

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a worker has pipes")
        return stdin, stdout

    def ask(self, question: bytes, max_bytes: int) -> bytes:
        """Its answer, a whole line; without an end if it died, or answers with more than that."""
        stdin, stdout = self._pipes
        try:
            stdin.write(question + b"\n")
            stdin.flush()
            return stdout.readline(max_bytes)
        except (OSError, ValueError):
            return b""

    def kill(self) -> int:
        """End it and all that it started; how it ended. Any thread, any number of times."""
        with self._killing:  # once it is reaped, its number may be another's
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return int(self._process.wait())

    def close(self) -> int:
        """Kill it, if it lives, and close its pipes; how it ended."""
        code = self.kill()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        return code


class ToolProcesses:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[str, str, str], _Process]] = []
        self._busy: set[_Process] = set()
        self._is_closed = False

    def run(
        self, tool: Tool, arguments: Mapping[str, Any], context: ToolContext, max_bytes: int
    ) -> Any:
        """Run a tool in a process, and kill that if the caller leaves. Blocks.

        Raises:
            ToolError: it raised, died, answered too much, or was killed.
            InvalidArguments: it refused its arguments.
        """
        origin = Origin.of(tool)
        key = (origin.module, origin.path, origin.digest)
        question = dump(
            {
                "module": origin.module,
                "path": origin.path,
                "digest": origin.digest,
                "tool": origin.name,
                "version": tool.version,
                "arguments": dict(arguments),
                "context": {
                    "tool": context.tool,
                    "caller": context.caller,
                    "call_id": context.call_id,
                    "idempotency_key": context.idempotency_key,
                    "attempt": context.attempt,
                    "labels": sorted(context.labels),
                    "settings": dict(context.settings),
                },
            }
        )
        process = self._take(key)
        context.cancellation.then(process.kill)
        answer = process.ask(question, max_bytes + _MARGIN)
        if not answer.endswith(b"\n"):
            is_flood = len(answer) >= max_bytes + _MARGIN
            code = self._drop(process)
            if context.is_cancelled:
                raise ToolDied(tool.name, "was killed")
            if is_flood:
                raise ToolDied(tool.name, f"answered with more than {max_bytes:,} bytes")
            raise ToolDied(tool.name, f"its process died ({_ended(code)})")
        if context.is_cancelled:
            self._drop(process)
        else:
            self._give_back(key, process)
        return _value(tool, answer, max_bytes)

    def close(self) -> None:
        """Kill them all. Blocks."""
        with self._lock:
            self._is_closed = True
            processes = [*(process for _, process in self._idle), *self._busy]
            self._idle.clear()
        for process in processes:
            process.kill()
        for process in processes:
            if process not in self._busy:
                process.close()

    def _take(self, key: tuple[str, str, str]) -> _Process:
        with self._lock:
            if self._is_closed:
                raise ToolError(key[0], "the kernel is closing")
            for index, (known, process) in enumerate(self._idle):
                if known == key:
                    del self._idle[index]
                    self._busy.add(process)
                    return process
        process = _Process()
        with self._lock:
            self._busy.add(process)
        if self._has_closed():
            self._drop(process)
            raise ToolError(key[0], "the kernel is closing")
        return process

    def _has_closed(self) -> bool:
        with self._lock:
            return self._is_closed

    def _give_back(self, key: tuple[str, str, str], process: _Process) -> None:
        with self._lock:
            self._busy.discard(process)
            self._idle.append((key, process))
            surplus = self._idle[:-_MAX_IDLE]
            del self._idle[:-_MAX_IDLE]
            if self._is_closed:
                surplus, self._idle = [*surplus, *self._idle], []
        for _, one in surplus:
            one.close()

    def _drop(self, process: _Process) -> int:
        code = process.close()
        with self._lock:
            self._busy.discard(process)
        return code


def _value(tool: Tool, answer: bytes, max_bytes: int) -> Any:
    try:
        told = parse(answer, max_bytes + _MARGIN)
    except NotJSON as exc:
        raise ToolError(tool.name, f"returned no JSON value: {exc}") from exc
    if "faults" in told:
        raise InvalidArguments(tool.name, told["faults"])
    if "error" in told:
        raise ToolError(tool.name, str(told["error"]))
    return told["value"]


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _is_unimportable(module: Any) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is None or not spec.origin
