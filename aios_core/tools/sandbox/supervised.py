"""A confined program while it runs: its output, its watch, its end. Lives on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from aios_core.tools.sandbox.backend import Confined, Program, Tier
from aios_core.tools.sandbox.fd_wait import write
from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.output_capture import Capture
from aios_core.tools.sandbox.result import KilledBy
from aios_core.tools.sandbox.shielding import to_the_end

T = TypeVar("T")

_WATCH_EVERY_S: Final = 0.1


class Box:
    """Kills what uses more than its limits, and says which it was.

    Invariant: after `close` no process of it is alive and no descriptor open.
    """

    def __init__(self, confined: Confined, limits: Limits, threads: Executor) -> None:
        """Made by `start`."""
        self.killed_by: KilledBy | None = None
        self.confined = confined
        self._limits = limits
        self._threads = threads
        pipes, most = confined.pipes, limits.output_bytes
        self.stdout = Capture(pipes.stdout, "stdout", most, self._flooded)
        self.stderr = Capture(pipes.stderr, "stderr", most, self._flooded)
        self._end = asyncio.create_task(confined.wait(), name="sandbox: end")
        self._watch = asyncio.create_task(self._watched(), name="sandbox: watch")

    @classmethod
    async def start(
        cls,
        tier: Tier,
        program: Program,
        threads: Executor,
        *,
        prepare: Callable[[Confined], object] | None = None,
    ) -> Self:
        """Start a program and let it go.

        Args:
            tier: confines it.
            program: what to start.
            threads: for what blocks; they have to live as long as the program.
            prepare: called on one of them before the program begins, to copy files in.

        Raises:
            SandboxUnavailable: it cannot be confined.
        """

        def ready() -> Confined:
            confined = tier.start(program)
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
            await asyncio.shield(asyncio.create_task(_abandon(starting)))
            raise
        box = cls(confined, program.limits, threads)
        confined.release()
        return box

    async def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do it on a thread, to its end: also if the await is cancelled."""
        loop = asyncio.get_running_loop()
        return await to_the_end(loop.run_in_executor(self._threads, work, *arguments))

    def kill(self, by: KilledBy | None = None) -> None:
        """End it now. The first reason stays."""
        if self.killed_by is None and not self._end.done():
            self.killed_by = by
        self.confined.kill()

    async def wait(self) -> int:
        """Its exit status, once all its processes are gone. May be cancelled and called again."""
        return await asyncio.shield(self._end)

    def when_ended(self, callback: Callable[[int], None]) -> None:
        """Call this with the exit status once it has ended."""
        self._end.add_done_callback(lambda end: callback(end.result()))

    async def feed(self, content: bytes) -> None:
        """Write to its standard input, then close that. A program need not read it."""
        pipes = self.confined.pipes
        with suppress(BrokenPipeError):
            await write(pipes.stdin, content)
        pipes.close_one("stdin")

    async def close(self) -> None:
        """Kill it if need be, and free everything. Ends also when it is cancelled."""
        self._watch.cancel()
        self.confined.kill()
        closing = asyncio.create_task(self._close(), name="sandbox: close")
        await asyncio.shield(closing)

    async def _close(self) -> None:
        await asyncio.wait([self._end, self._watch])
        self.stdout.stop()
        self.stderr.stop()
        self.confined.close()

    def _flooded(self) -> None:
        self.kill(KilledBy.OUTPUT)

    async def _watched(self) -> None:
        """Limits that the kernel does not count for us."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            usage = await self.blocking(self.confined.usage)
            if usage.memory_bytes > self._limits.memory_bytes:
                self.kill(KilledBy.MEMORY)
            elif usage.num_files > self._limits.files:
                self.kill(KilledBy.DISK)


async def _abandon(starting: asyncio.Future[Confined]) -> None:
    """A start that nobody waits for any more."""
    try:
        confined = await starting
    except Exception:  # noqa: BLE001 - it failed; there is nobody to be told, and nothing to free
        return
    confined.kill()
    await confined.wait()
    confined.close()
