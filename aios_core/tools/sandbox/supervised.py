"""Supervise a confined program: capture output, enforce limits, end it. Runs on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from aios_core.shielding import finish_shielded
from aios_core.tools.sandbox.backend import Confined, Program, SandboxBackend
from aios_core.tools.sandbox.fd_wait import write
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.output_capture import OutputCapture
from aios_core.tools.sandbox.result import KilledBy

T = TypeVar("T")

_WATCH_EVERY_S: Final = 0.1


class SupervisedProcess:
    """A running confined program, which is killed when it exceeds a limit.

    Invariant: after `close`, none of its processes is alive and no descriptor is open.
    """

    def __init__(self, confined: Confined, limits: SandboxLimits, threads: Executor) -> None:
        """Supervise a program that `start` has started."""
        self.killed_by: KilledBy | None = None
        self.confined = confined
        self._limits = limits
        self._threads = threads
        pipes, most = confined.pipes, limits.output_bytes
        self.stdout = OutputCapture(pipes.stdout, "stdout", most, self._flooded)
        self.stderr = OutputCapture(pipes.stderr, "stderr", most, self._flooded)
        self._end = asyncio.create_task(confined.wait(), name="sandbox: end")
        watch = asyncio.create_task(self._watched(), name="sandbox: watch")
        self._helpers: list[asyncio.Task[None]] = [watch]  # they end when it is closed

    @classmethod
    async def start(
        cls,
        backend: SandboxBackend,
        program: Program,
        threads: Executor,
        *,
        prepare: Callable[[Confined], object] | None = None,
    ) -> Self:
        """Start a program and supervise it.

        Args:
            backend: the isolation backend.
            program: the program to start.
            threads: for blocking work; they have to exist as long as the program.
            prepare: called on one of them before the program starts, to copy files in.

        Raises:
            SandboxUnavailable: the program cannot be confined.
        """

        def ready() -> Confined:
            confined = backend.start(program)
            try:
                if prepare is not None:
                    prepare(confined)
            except BaseException:
                confined.kill()
                confined.wait_blocking()
                confined.close()
                raise
            return confined

        starting = asyncio.get_running_loop().run_in_executor(threads, ready)
        try:
            confined = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await finish_shielded(_abandon(starting))
            raise
        process = cls(confined, program.limits, threads)
        confined.release()
        return process

    async def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work on a thread and wait for its end, even if the await is cancelled."""
        loop = asyncio.get_running_loop()
        return await finish_shielded(loop.run_in_executor(self._threads, work, *arguments))

    def kill(self, by: KilledBy | None = None) -> None:
        """Kill the program. The first reason is kept in `killed_by`."""
        if self.killed_by is None and not self._end.done():
            self.killed_by = by
        self.confined.kill()

    async def wait(self) -> int:
        """Wait until all its processes have ended. Returns the exit status.

        May be cancelled and called again.
        """
        return await asyncio.shield(self._end)

    def when_ended(self, callback: Callable[[int], None]) -> None:
        """Call `callback` with the exit status once the program has ended."""
        self._end.add_done_callback(lambda end: callback(end.result()))

    def feed(self, content: bytes) -> None:
        """Write to the program's standard input, then close it. The program need not read it."""
        self._helpers.append(asyncio.create_task(self._fed(content), name="sandbox: stdin"))

    async def close(self) -> None:
        """Kill the program if it runs, and free everything, even if the await is cancelled."""
        for helper in self._helpers:
            helper.cancel()
        self.confined.kill()
        await finish_shielded(self._close())

    async def _close(self) -> None:
        await asyncio.wait([self._end, *self._helpers])
        self.stdout.stop()
        self.stderr.stop()
        self.confined.close()

    async def _fed(self, content: bytes) -> None:
        pipes = self.confined.pipes
        with suppress(BrokenPipeError):
            await write(pipes.stdin, content)
        pipes.close_one("stdin")

    def _flooded(self) -> None:
        self.kill(KilledBy.OUTPUT)

    async def _watched(self) -> None:
        """Enforce the limits that the operating system does not enforce itself."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            usage = await self.blocking(self.confined.usage)
            if usage.memory_bytes > self._limits.memory_bytes:
                self.kill(KilledBy.MEMORY)
            elif usage.num_files > self._limits.max_files:
                self.kill(KilledBy.DISK)


async def _abandon(starting: asyncio.Future[Confined]) -> None:
    """End a program that was still being started when its caller was cancelled."""
    try:
        confined = await starting
    except Exception:  # noqa: BLE001 - the start failed: no caller waits, and nothing has to be freed
        return
    confined.kill()
    await confined.wait()
    confined.close()
