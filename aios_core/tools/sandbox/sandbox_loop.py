"""An event loop in its own thread, for work that must not delay another loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from aios_core.errors import KernelClosed

T = TypeVar("T")


class SandboxLoop:
    """An event loop in a thread that starts at the first `submit` and ends at `close`.

    `_lock` guards `_loop`, `_thread` and `_is_closed`; any thread may use the methods.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._submitted: set[asyncio.Task[Any]] = set()  # touched by the loop only

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels it. Raises `KernelClosed`."""
        try:
            with self._lock:
                loop = self._started()
                return asyncio.run_coroutine_threadsafe(self._tracked(work), loop)
        except KernelClosed:
            work.close()
            raise

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it. An interrupted wait cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what runs, wait for its end, and end the thread. Do not call it on that thread."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._is_closed:
            raise KernelClosed(f"{self._name} is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=(self._loop,), name=self._name, daemon=True
            )
            self._thread.start()
        return self._loop

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = cast("asyncio.Task[T]", asyncio.current_task())
        self._submitted.add(task)
        try:
            return await work
        finally:
            self._submitted.discard(task)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            for task in self._submitted:
                task.cancel()
            # Tasks that those have started are not cancelled: they clean up and end by themselves.
            while tasks := asyncio.all_tasks(loop):
                loop.run_until_complete(asyncio.wait(tasks))
        finally:
            loop.close()
