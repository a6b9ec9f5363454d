"""Run tools in processes, which can be killed: for code that hangs or crashes.

A process runs `aios_core.tools.process_main`, which loads the file or module of a tool and is kept
for its next calls; another process is started ahead. Arguments and results are JSON lines; the
process uses no pickle and no shell, and has no kernel. This isolates faults, not malice: the
process has the rights of the kernel's user. Untrusted code belongs in the sandbox.

Promise: all descendants of a tool's process end with it, even those that left its group and
session.

`_lock` guards the lists of processes. Used on the threads of tools.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from aios_core.errors import ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.function_origin import FunctionOrigin
from aios_core.tools.strict_json import dump
from aios_core.tools.tool import Tool
from aios_core.tools.tool_process import ToolDied, ToolProcess, value_of

_MAX_IDLE: Final = 4
_NUM_AHEAD: Final = 1  # processes started before they are needed, after the first call
_MARGIN: Final = 4_096  # bytes of an answer in addition to the result


class ToolProcessPool:
    """The processes of a kernel that run tools, or wait for their next call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ToolProcess] = []  # with a loaded source; the longest unused first
        self._ahead: list[ToolProcess] = []  # without a source yet
        self._busy: set[ToolProcess] = set()
        self._is_closed = False

    def run(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        context: ToolContext,
        max_bytes: int,
        on_started: Callable[[], object] = lambda: None,
    ) -> Any:
        """Run a tool in a process, and kill the process if the caller stops waiting. Blocks.

        Args:
            tool: with `isolation="process"`.
            arguments: they fit its schema.
            context: of the call; its cancellation kills the process.
            max_bytes: the largest result, as JSON.
            on_started: called once the process is ready, when the tool's timeout starts.

        Returns:
            The tool's result, plain JSON.

        Raises:
            ToolError: it raised, died, returned too much, or was killed.
            InvalidArguments: it refused its arguments.
        """
        origin = FunctionOrigin.of(tool)
        process = self._take(tool.name, origin.source)
        context.cancellation.then(process.kill)
        try:
            process.load(tool.name, origin.source)
        except BaseException:
            self._drop(process)
            raise
        on_started()
        answer = process.ask(_question(origin, tool, arguments, context), max_bytes + _MARGIN)
        if not answer.endswith(b"\n"):
            raise self._died(process, tool, context, len(answer), max_bytes)
        context.cancellation.end()  # from here on the process may serve another call: do not kill
        if context.is_cancelled:
            self._drop(process)
        else:
            self._give_back(process)
            self._start_ahead(tool.name)
        return value_of(tool.name, answer, max_bytes + _MARGIN)

    def close(self) -> None:
        """Kill all processes. Blocks until they have ended."""
        with self._lock:
            self._is_closed = True
            unused = [*self._idle, *self._ahead]
            busy = tuple(self._busy)
            self._idle.clear()
            self._ahead.clear()
        for process in busy:
            process.kill()
        for process in unused:
            process.close()

    # --- inside ------------------------------------------------------------------------------

    def _died(
        self,
        process: ToolProcess,
        tool: Tool,
        context: ToolContext,
        num_bytes: int,
        max_bytes: int,
    ) -> ToolDied:
        is_flood = num_bytes >= max_bytes + _MARGIN
        if not is_flood and not context.is_cancelled:
            process.wait_ended()
        code = self._drop(process)
        if context.is_cancelled:
            return ToolDied(tool.name, "was killed")
        if is_flood:
            return ToolDied(tool.name, f"answered with more than {max_bytes:,} bytes")
        return ToolDied(tool.name, f"its process died ({_ended(code)})")

    def _take(self, tool: str, source: tuple[str, str, str]) -> ToolProcess:
        """Return a process that has loaded that source, or a new one."""
        with self._lock:
            if self._is_closed:
                raise ToolError(tool, "the kernel is closing")
            process = next((one for one in self._idle if one.source == source), None)
            if process is not None:
                self._idle.remove(process)
            elif self._ahead:
                process = self._ahead.pop(0)
            if process is not None:
                self._busy.add(process)
        if process is None:
            process = self._started(tool, self._busy.add)
        return process

    def _start_ahead(self, tool: str) -> None:
        """Start processes ahead, to be ready when a tool of another source is called."""
        with self._lock:
            missing = _NUM_AHEAD - len(self._ahead)
        with contextlib.suppress(ToolError):  # no call waits for them
            for _ in range(missing):
                self._started(tool, self._ahead.append)

    def _started(self, tool: str, put: Callable[[ToolProcess], object]) -> ToolProcess:
        try:
            process = ToolProcess()
        except OSError as exc:
            raise ToolError(tool, f"no process can be started: {exc.strerror}") from exc
        with self._lock:
            if not self._is_closed:
                put(process)
                return process
        process.close()
        raise ToolError(tool, "the kernel is closing")

    def _give_back(self, process: ToolProcess) -> None:
        with self._lock:
            self._busy.discard(process)
            self._idle.append(process)
            surplus = self._idle[:-_MAX_IDLE]
            del self._idle[:-_MAX_IDLE]
            if self._is_closed:
                surplus, self._idle = [*surplus, *self._idle], []
        for one in surplus:
            one.close()

    def _drop(self, process: ToolProcess) -> int:
        code = process.close()
        with self._lock:
            self._busy.discard(process)
        return code


def _question(
    origin: FunctionOrigin, tool: Tool, arguments: Mapping[str, Any], context: ToolContext
) -> bytes:
    return dump(
        {
            "tool": origin.name,
            "version": tool.version,
            "attribute": origin.attribute,
            "context_name": tool.context_name,
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


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
