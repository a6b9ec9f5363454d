"""Run blocking work on storage threads, and work that continues if its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from aios_core.errors import KernelClosed

T = TypeVar("T")

_THREADS: Final = 4


class BackgroundTasks:
    """The background tasks and threads of the storage manager. Used on the kernel's loop only.

    The threads start at the first use.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_ending = False  # start nothing new in the background

    def __len__(self) -> int:
        """Return the number of running tasks."""
        return len(self._tasks)

    async def run_on_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work on a storage thread. Raises `KernelClosed` after `close`."""
        if self._threads is None:
            if self.is_ending:
                raise KernelClosed("the storage manager is closed")
            self._threads = ThreadPoolExecutor(_THREADS, "aios-storage")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def run_shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end, even if the caller is cancelled, and return its result."""
        return await asyncio.shield(self.spawn(work))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work as a task that the caller need not await; `drain` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def wait_idle(self) -> None:
        """Wait until no task is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def drain(self) -> None:
        """Start no new background work, and wait for the running tasks."""
        self.is_ending = True
        await self.wait_idle()

    async def close(self) -> None:
        """Stop the threads; they do not start again."""
        self.is_ending = True
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as seen: a cancelled caller no longer reads it
