"""Work beside the kernel's loop: on the storage threads, or going on when its caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from aios_core.errors import KernelClosed

T = TypeVar("T")

_THREADS: Final = 4


class Work:
    """Runs on the kernel's loop, which none of it blocks. The threads start with the first use."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_ending = False  # nothing new is begun in the background

    def __len__(self) -> int:
        """What is under way."""
        return len(self._tasks)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """What blocks. Raises `KernelClosed` once the threads have ended."""
        if self._threads is None:
            if self.is_ending:
                raise KernelClosed("the storage manager is closed")
            self._threads = ThreadPoolExecutor(_THREADS, "aios-storage")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on if the caller is cancelled."""
        return await asyncio.shield(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that nobody has to await; `drain` does."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def drain(self) -> None:
        """Let what is under way come to its end, and begin nothing new beside it."""
        self.is_ending = True
        await self.settled()

    async def close(self) -> None:
        """End the threads, of which none starts again."""
        self.is_ending = True
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone
