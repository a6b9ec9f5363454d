"""Check values against slow schemas, in processes that are killed after a time limit.

With a pattern, a self-reference or `uniqueItems`, a third-party schema may keep Python's `re` or
`jsonschema` busy forever. A thread cannot be ended then, but a process can.

Promises: a check ends within `CHECK_S` after its process is ready; an agent's checks run one at
a time and wait for its own only; nothing else uses these processes and threads; `close` does not
wait for a check.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from aios_core.errors import InvalidArguments, Overloaded
from aios_core.tools.strict_json import dump
from aios_core.tools.tool_process import ToolProcess, value_of
from aios_core.untrusted.blocking_calls import call_on_thread

CHECK_S: Final = 5.0
_START_S: Final = 60.0
_MAX_AT_ONCE: Final = 2  # of arguments; as many again of results
_MAX_WAITING: Final = 100  # of one agent
_MAX_BYTES: Final = 64 << 20
_READY: Final = dump({"ready": None})


class SchemaProcesses:
    """The processes that check values. `_lock` guards them; only the loop uses the other fields."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ToolProcess] = []
        self._busy: set[ToolProcess] = set()
        self._is_closed = False
        self._at_once = asyncio.Semaphore(_MAX_AT_ONCE)
        self._results_at_once = threading.BoundedSemaphore(_MAX_AT_ONCE)
        self._locks: dict[str, asyncio.Lock] = {}  # by agent, while it has checks
        self._waiting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def check(
        self,
        agent: str,
        tool: str,
        schema: Mapping[str, Any],
        arguments: Mapping[str, Any],
        *,
        repairs: bool,
    ) -> dict[str, Any]:
        """Check arguments in a process and return them in the form that the tool gets.

        Args:
            agent: the identity of the caller.
            tool: the name, for errors.
            schema: of the arguments.
            arguments: plain JSON.
            repairs: whether harmless mistakes are coerced.

        Raises:
            InvalidArguments: they do not fit, or the check takes longer than `CHECK_S`.
            Overloaded: too many checks of the agent wait.
        """
        if self._waiting[agent] >= _MAX_WAITING:
            raise Overloaded(f"the queue of argument checks of {agent}", _MAX_WAITING, CHECK_S)
        self._waiting[agent] += 1
        work = partial(self._check, tool, schema, arguments, repairs)
        task = asyncio.ensure_future(self._in_turn(agent, work))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def check_result(self, tool: str, schema: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Check a tool's result on the calling thread. Raises `InvalidArguments`. Blocks."""
        with self._results_at_once:
            self._check(tool, schema, result, False)

    def close(self) -> None:
        """Kill all processes. Blocks only until they have ended."""
        with self._lock:
            self._is_closed = True
            idle, busy = tuple(self._idle), tuple(self._busy)
            self._idle.clear()
        for process in busy:
            process.kill()
        for process in idle:
            process.close()

    async def wait_idle(self) -> None:
        """Wait until all checks have ended, after `close` killed their processes."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- inside ------------------------------------------------------------------------------

    async def _in_turn(self, agent: str, work: Any) -> Any:
        lock = self._locks.setdefault(agent, asyncio.Lock())
        try:
            async with lock, self._at_once:
                return await call_on_thread(work, "aios-tool-schema")
        finally:
            self._waiting[agent] -= 1
            if not self._waiting[agent]:
                del self._waiting[agent], self._locks[agent]

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieve it: the caller got it from the shield, or was cancelled

    def _check(
        self, tool: str, schema: Mapping[str, Any], value: Mapping[str, Any], repairs: bool
    ) -> Any:
        """Check a value in a process. Blocks, so it runs on a thread."""
        question = dump(
            {"check": {"tool": tool, "schema": schema, "value": value, "repairs": repairs}}
        )
        process = self._take(tool)
        answer = b""
        try:
            if _ask(process, _READY, _START_S):
                answer = _ask(process, question, CHECK_S)
        finally:
            self._give_back(process, is_alive=bool(answer))
        if not answer:
            reason = f"cannot be checked within {CHECK_S:g} s; its schema takes too long"
            raise InvalidArguments(tool, {"arguments": reason})
        return value_of(tool, answer, _MAX_BYTES)

    def _take(self, tool: str) -> ToolProcess:
        with self._lock:
            if self._is_closed:
                raise InvalidArguments(tool, {"arguments": "not checked: the kernel is closing"})
            if self._idle:
                process = self._idle.pop()
                self._busy.add(process)
                return process
        process = ToolProcess()
        with self._lock:
            self._busy.add(process)
        if self._has_closed():
            process.kill()
        return process

    def _has_closed(self) -> bool:
        with self._lock:
            return self._is_closed

    def _give_back(self, process: ToolProcess, *, is_alive: bool) -> None:
        with self._lock:
            self._busy.discard(process)
            if is_alive and not self._is_closed and len(self._idle) < _MAX_AT_ONCE:
                self._idle.append(process)
                return
        process.close()


def _ask(process: ToolProcess, question: bytes, within_s: float) -> bytes:
    """Return the answer of a process, or b"" if it dies or is killed after `within_s` seconds."""
    watch = threading.Timer(within_s, process.kill)
    watch.daemon = True
    watch.start()
    try:
        answer = process.ask(question, _MAX_BYTES)
    finally:
        watch.cancel()
    return answer if answer.endswith(b"\n") else b""
