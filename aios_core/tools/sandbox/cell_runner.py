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
from aios_core.tools.sandbox import packages as sandbox_packages
from aios_core.tools.sandbox.backend import DOCUMENTS, Program, Tier
from aios_core.tools.sandbox.file_sync import Mirror
from aios_core.tools.sandbox.frames import BadFrame, Channel, Reply
from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.result import ExecutionResult, FileChanges, KilledBy, OnOutput
from aios_core.tools.sandbox.runner import (
    LANGUAGES,
    PYTHON_ENVIRONMENT,
    Language,
    encoded,
    notice_of,
)
from aios_core.tools.sandbox.supervised import Box

_GRACE_S: Final = 2.0  # for an interrupted cell to end, before its session is ended
_INSIST_S: Final = 0.2  # between two interrupts, since the cell may not have started at the first


@dataclass(frozen=True, slots=True)
class Span:
    """The maximum lifetime and idle time of a session, in seconds."""

    life_s: float = 3600.0
    idle_s: float = 600.0


class Notebook:
    """Runs the cells of one session.

    Invariant: at most one cell runs; others wait in the order of their arrival.
    """

    def __init__(
        self,
        tier: Tier,
        limits: Limits,
        span: Span,
        threads: Executor,
        files: Path | None,
        *,
        packages: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare without starting a process; the first cell starts it.

        Args:
            tier: the isolation backend.
            limits: `wall_s` is for each cell; `cpu_s` is raised to the maximum lifetime.
            span: the maximum lifetime and idle time.
            threads: for blocking work; they have to outlive the session.
            files: a directory that is synchronized with /work before and after each cell.
            packages: further packages to import, from `packages.find_packages`.
        """
        self._tier = tier
        # The processor time of a session adds up over its lifetime.
        self._limits = replace(limits, cpu_s=max(limits.cpu_s, int(span.life_s)))
        self._span = span
        self._threads = threads
        self._files = files
        self._packages = packages or {}
        self._turn = asyncio.Lock()
        self._box: Box | None = None
        self._channel: Channel | None = None
        self._mirror: Mirror | None = None
        self._num_cells = 0
        self._why: str | None = None  # the reason why it has ended
        self._is_interrupted = False
        self._is_running = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._freeing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Notebook {self.state}, {self._num_cells} cells>"

    @property
    def state(self) -> str:
        """One of "new", "idle", "busy" and "ended"."""
        if self._why is not None:
            return "ended"
        if self._is_running:
            return "busy"
        return "new" if self._box is None else "idle"

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
            box, channel = await self._started()
            self._num_cells += 1
            self._is_running, self._is_interrupted = True, False
            self._stop_timer("idle")
            try:
                if self._mirror is not None:
                    await box.blocking(self._mirror.push)
                box.stdout.listen(on_output)
                box.stderr.listen(on_output)
                return await self._cell(box, channel, language, code, timeout_s)
            finally:
                self._is_running = False
                if self._box is box:
                    box.stdout.listen(None)
                    box.stderr.listen(None)
                    self._start_timer("idle", self._span.idle_s, "it was idle for too long")
                else:
                    await box.close()

    def interrupt(self) -> bool:
        """Interrupt the running cell, as with Ctrl-C. Returns whether a cell was running."""
        if not self._is_running or self._box is None:
            return False
        self._is_interrupted = True
        self._box.confined.interrupt()
        return True

    async def settle(self) -> None:
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
        self, box: Box, channel: Channel, language: Language, code: str, timeout_s: float | None
    ) -> ExecutionResult:
        loop = asyncio.get_running_loop()
        wall_s = self._limits.wall_s if timeout_s is None else min(timeout_s, self._limits.wall_s)
        began = loop.time()
        replying = asyncio.create_task(
            self._converse(channel, language, code), name="sandbox: cell"
        )
        killed_by = None
        try:
            done, _ = await asyncio.wait([replying], timeout=wall_s)
            if not done:
                killed_by = KilledBy.WALL
                await self._stop(replying)
        except asyncio.CancelledError:
            await self._stop(replying)
            box.stdout.take(), box.stderr.take()  # discard it, or the next cell would return it
            raise
        reply = replying.result() if replying.done() and not replying.cancelled() else None
        return await self._result(box, reply, killed_by, wall_s, loop.time() - began)

    async def _converse(self, channel: Channel, language: Language, code: str) -> Reply | None:
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
                if self._box is not None:
                    self._box.confined.interrupt()
                if (await asyncio.wait([replying], timeout=_INSIST_S))[0]:
                    break
        finally:
            if not replying.done():
                self._end("a cell did not stop when it was interrupted")
                replying.cancel()

    async def _result(
        self,
        box: Box,
        reply: Reply | None,
        killed_by: KilledBy | None,
        wall_s: float,
        duration_s: float,
    ) -> ExecutionResult:
        exit_code, value, notice = 137, None, None
        if reply is None:
            exit_code = await _last_status(box)
            self._end(_why_died(box, exit_code, self._limits))
            killed_by = box.killed_by or killed_by
            notice = notice_of(box.killed_by, self._limits)
        else:
            exit_code, value = reply.exit_code, reply.value
            if self._is_interrupted and exit_code:
                killed_by = KilledBy.INTERRUPT
        if killed_by is KilledBy.WALL:
            notice = f"ended: it was still running after {wall_s:g} s"
        mirror = self._mirror
        changes = FileChanges() if mirror is None else await box.blocking(mirror.pull)
        stdout, stderr = box.stdout.take(), box.stderr.take()
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

    async def _started(self) -> tuple[Box, Channel]:
        if self._why is not None:
            raise ToolError(
                "session",
                f"it has ended: {self._why}; restart it to continue without its variables",
            )
        if self._box is None or self._channel is None:
            argv = (self._tier.python, f"{DOCUMENTS}/driver.py")
            program = Program(
                argv,
                self._limits,
                {"driver.py": _driver(), **sandbox_packages.documents()},
                PYTHON_ENVIRONMENT,
                has_control=True,
                packages=self._packages,
            )
            box = await Box.start(self._tier, program, self._threads)
            if self.state == "ended":  # closed meanwhile
                await box.close()
                return await self._started()
            pipes = box.confined.pipes
            pipes.close_one("stdin")
            self._box, self._channel = box, Channel(pipes.control_in, pipes.control_out)
            box.when_ended(lambda status: self._died(box, status))
            if self._files is not None:
                self._mirror = Mirror(self._files, box.confined.work, self._limits)
            self._start_timer("life", self._span.life_s, "it reached its maximum lifetime")
        return self._box, self._channel

    def _start_timer(self, name: str, after_s: float, why: str) -> None:
        self._stop_timer(name)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(after_s, self._end, why, KilledBy.LIFE)

    def _stop_timer(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _died(self, box: Box, status: int) -> None:
        if self._box is box:
            self._end(_why_died(box, status, self._limits))

    def _end(self, why: str, by: KilledBy | None = None) -> None:
        """Kill the process. The first reason is kept.

        While a cell runs, its `execute` frees the process; otherwise a task does.
        """
        for name in tuple(self._timers):
            self._stop_timer(name)
        if self._why is None:
            self._why = why
        box, self._box, self._channel = self._box, None, None
        if box is None:
            return
        box.kill(by)
        if not self._is_running:
            task = asyncio.create_task(box.close(), name="sandbox: end of a session")
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    async def _freed(self) -> None:
        if self._freeing:
            await asyncio.wait(set(self._freeing))


async def _last_status(box: Box) -> int:
    """Return the exit status of a driver that stopped answering; kill it if it still runs."""
    try:
        async with asyncio.timeout(_GRACE_S):
            return await box.wait()
    except TimeoutError:
        box.kill()
        return await box.wait()


def _why_died(box: Box, status: int, limits: Limits) -> str:
    return notice_of(box.killed_by, limits) or f"its process ended with status {status}"


@cache
def _driver() -> bytes:
    return resources.files(__package__).joinpath("driver.py").read_bytes()
