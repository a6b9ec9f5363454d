"""Run cells of code one after the other in a process that keeps their variables.

This implements a `Session`. A Python process (`driver`) runs in a sandbox as long as the
session, within the sandbox's limits, a maximum lifetime and a maximum idle time. After a
session has ended for any reason, the next cell raises an error with that reason; the session
can be restarted, without its variables. Runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from aios_core.errors import InvalidRequest, ToolError
from aios_core.shielding import finish_shielded
from aios_core.tools.sandbox import packages as sandbox_packages
from aios_core.tools.sandbox.backend import DOCUMENTS, Program, SandboxBackend
from aios_core.tools.sandbox.file_sync import FileSync
from aios_core.tools.sandbox.frames import BadFrame, Channel, Reply
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import ExecutionResult, FileChanges, KilledBy, OnOutput
from aios_core.tools.sandbox.runner import (
    LANGUAGES,
    PYTHON_ENVIRONMENT,
    Language,
    encoded,
    notice_of,
)
from aios_core.tools.sandbox.supervised import SupervisedProcess

_GRACE_S: Final = 2.0  # for an interrupted cell to end, before its session is ended
_INSIST_S: Final = 0.2  # between two interrupts, since the cell may not have started at the first


@dataclass(frozen=True, slots=True)
class SessionLifetime:
    """The maximum lifetime and idle time of a session, in seconds."""

    life_s: float = 3600.0
    idle_s: float = 600.0


class CellRunner:
    """Runs the cells of one session.

    Invariant: at most one cell runs; others wait in the order of their arrival.
    """

    def __init__(
        self,
        backend: SandboxBackend,
        limits: SandboxLimits,
        lifetime: SessionLifetime,
        threads: Executor,
        files: Path | None,
        *,
        packages: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare without starting a process; the first cell starts it.

        Args:
            backend: the isolation backend.
            limits: `wall_s` is for each cell; `cpu_s` is raised to the maximum lifetime.
            lifetime: the maximum lifetime and idle time.
            threads: for blocking work; they have to outlive the session.
            files: a directory that is synchronized with /work before and after each cell.
            packages: further packages to import, from `packages.find_packages`.
        """
        self._backend = backend
        # The processor time of a session adds up over its lifetime.
        self._limits = replace(limits, cpu_s=max(limits.cpu_s, int(lifetime.life_s)))
        self._lifetime = lifetime
        self._threads = threads
        self._files = files
        self._packages = packages or {}
        self._turn = asyncio.Lock()
        self._process: SupervisedProcess | None = None
        self._channel: Channel | None = None
        self._sync: FileSync | None = None
        self._num_cells = 0
        self._why: str | None = None  # the reason why it has ended
        self._is_interrupted = False
        self._is_running = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._freeing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<CellRunner {self.state}, {self._num_cells} cells>"

    @property
    def state(self) -> str:
        """One of "new", "idle", "busy" and "ended"."""
        if self._why is not None:
            return "ended"
        if self._is_running:
            return "busy"
        return "new" if self._process is None else "idle"

    @property
    def why_ended(self) -> str | None:
        return self._why

    async def execute(
        self,
        code: str,
        *,
        language: Language = "python",
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell. A shell cell shares the files, not the variables.

        A cell that takes too long is interrupted, as with Ctrl-C, and so is a cell when the await
        is cancelled. If the cell does not stop then, the session is ended.

        Raises:
            ToolError: the session has ended; `restart` makes it usable again.
            SandboxUnavailable: nothing on this machine can confine the code.
            InvalidRequest: the code is not valid text, or the language is unknown.
        """
        encoded(code)
        if language not in LANGUAGES:
            raise InvalidRequest(f"language: got {language!r}; allowed: {list(LANGUAGES)}")
        async with self._turn:
            process, channel = await self._started()
            self._num_cells += 1
            self._is_running, self._is_interrupted = True, False
            self._stop_timer("idle")
            try:
                if self._sync is not None:
                    await process.blocking(self._sync.push)
                process.stdout.listen(on_output)
                process.stderr.listen(on_output)
                return await self._cell(process, channel, language, code, timeout_s)
            finally:
                self._is_running = False
                if self._process is process:
                    process.stdout.listen(None)
                    process.stderr.listen(None)
                    self._start_timer("idle", self._lifetime.idle_s, "it was idle for too long")
                else:
                    await process.close()

    def interrupt(self) -> bool:
        """Interrupt the running cell, as with Ctrl-C. Returns whether a cell was running."""
        if not self._is_running or self._process is None:
            return False
        self._is_interrupted = True
        self._process.confined.interrupt()
        return True

    async def wait_idle(self) -> None:
        """Wait until no cell runs or waits."""
        async with self._turn:
            return

    async def restart(self) -> None:
        """End the process; the next cell starts another, without the variables."""
        self._end("it was restarted")
        async with self._turn:
            await self._freed()
            self._why = None

    async def close(self) -> None:
        """End the session at once, even while a cell runs. Idempotent."""
        self._end("it was closed")
        async with self._turn:
            await self._freed()

    # --- a cell -----------------------------------------------------------------------------------

    async def _cell(
        self,
        process: SupervisedProcess,
        channel: Channel,
        language: Language,
        code: str,
        timeout_s: float | None,
    ) -> ExecutionResult:
        loop = asyncio.get_running_loop()
        wall_s = self._limits.wall_s if timeout_s is None else min(timeout_s, self._limits.wall_s)
        began = loop.time()
        replying = asyncio.create_task(
            self._exchange(channel, language, code), name="sandbox: cell"
        )
        killed_by = None
        try:
            done, _ = await asyncio.wait([replying], timeout=wall_s)
            if not done:
                killed_by = KilledBy.WALL
                await self._stop(replying)
        except asyncio.CancelledError:
            try:
                await finish_shielded(self._stop(replying))
            finally:  # discard the output, or the next cell would return it
                process.stdout.take()
                process.stderr.take()
            raise
        reply = replying.result() if replying.done() and not replying.cancelled() else None
        return await self._result(process, reply, killed_by, wall_s, loop.time() - began)

    async def _exchange(self, channel: Channel, language: Language, code: str) -> Reply | None:
        """Send a cell and return its reply; None if the driver has ended or broke the protocol."""
        cell = self._num_cells
        try:
            await channel.send(cell, language, code)
            reply = await channel.receive()
            if reply is not None and reply.cell != cell:
                raise BadFrame(f"a reply to cell {reply.cell} in place of {cell}")  # noqa: TRY301
        except BrokenPipeError:
            return None
        except BadFrame as exc:
            self._end(f"its process broke the protocol: {exc}")
            return None
        return reply

    async def _stop(self, replying: asyncio.Task[Reply | None]) -> None:
        """Interrupt the cell, and end the session if the cell does not stop."""
        try:
            for _ in range(round(_GRACE_S / _INSIST_S)):
                if self._process is not None:
                    self._process.confined.interrupt()
                if (await asyncio.wait([replying], timeout=_INSIST_S))[0]:
                    break
        finally:
            if not replying.done():
                self._end("a cell did not stop when it was interrupted")
                replying.cancel()

    async def _result(
        self,
        process: SupervisedProcess,
        reply: Reply | None,
        killed_by: KilledBy | None,
        wall_s: float,
        duration_s: float,
    ) -> ExecutionResult:
        exit_code, value, notice = 137, None, None
        if reply is None:
            exit_code = await _last_status(process)
            self._end(_why_died(process, exit_code, self._limits))
            killed_by = process.killed_by or killed_by
            notice = notice_of(process.killed_by, self._limits)
        else:
            exit_code, value = reply.exit_code, reply.value
            if self._is_interrupted and exit_code:
                killed_by = KilledBy.INTERRUPT
        if killed_by is KilledBy.WALL:
            notice = f"ended: it was still running after {wall_s:g} s"
        sync = self._sync
        changes = FileChanges() if sync is None else await process.blocking(sync.pull)
        stdout, stderr = process.stdout.take(), process.stderr.take()
        lost = f"the session has ended, its variables are lost ({self._why})" if self._why else None
        return ExecutionResult(
            stdout=stdout[0],
            stderr=stderr[0],
            exit_code=exit_code,
            duration_s=duration_s,
            killed_by=killed_by,
            truncated=stdout[1] or stderr[1],
            value=value,
            notice="; ".join(filter(None, (notice, lost))) or None,
            files=changes,
        )

    # --- start and end ----------------------------------------------------------------------------

    async def _started(self) -> tuple[SupervisedProcess, Channel]:
        if self._why is not None:
            raise ToolError(
                "session",
                f"it has ended: {self._why}; restart it to continue without its variables",
            )
        if self._process is None or self._channel is None:
            argv = (self._backend.python, f"{DOCUMENTS}/driver.py")
            program = Program(
                argv,
                self._limits,
                {"driver.py": _driver(), **sandbox_packages.documents()},
                PYTHON_ENVIRONMENT,
                has_control=True,
                packages=self._packages,
            )
            process = await SupervisedProcess.start(self._backend, program, self._threads)
            if self.state == "ended":  # closed meanwhile
                await process.close()
                return await self._started()
            pipes = process.confined.pipes
            pipes.close_one("stdin")
            self._process, self._channel = process, Channel(pipes.control_in, pipes.control_out)
            process.when_ended(lambda status: self._died(process, status))
            if self._files is not None:
                self._sync = FileSync(self._files, process.confined.work, self._limits)
            self._start_timer("life", self._lifetime.life_s, "it reached its maximum lifetime")
        return self._process, self._channel

    def _start_timer(self, name: str, after_s: float, why: str) -> None:
        self._stop_timer(name)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(after_s, self._end, why, KilledBy.LIFE)

    def _stop_timer(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _died(self, process: SupervisedProcess, status: int) -> None:
        if self._process is process:
            self._end(_why_died(process, status, self._limits))

    def _end(self, why: str, by: KilledBy | None = None) -> None:
        """Kill the process. The first reason is kept.

        While a cell runs, its `execute` frees the process; otherwise a task does.
        """
        for name in tuple(self._timers):
            self._stop_timer(name)
        if self._why is None:
            self._why = why
        process, self._process, self._channel = self._process, None, None
        if process is None:
            return
        process.kill(by)
        if not self._is_running:
            task = asyncio.create_task(process.close(), name="sandbox: end of a session")
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    async def _freed(self) -> None:
        if self._freeing:
            await asyncio.wait(set(self._freeing))


async def _last_status(process: SupervisedProcess) -> int:
    """Return the exit status of a driver that stopped answering; kill it if it still runs."""
    try:
        async with asyncio.timeout(_GRACE_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()


def _why_died(process: SupervisedProcess, status: int, limits: SandboxLimits) -> str:
    return notice_of(process.killed_by, limits) or f"its process ended with status {status}"


@cache
def _driver() -> bytes:
    return resources.files(__package__).joinpath("driver.py").read_bytes()
