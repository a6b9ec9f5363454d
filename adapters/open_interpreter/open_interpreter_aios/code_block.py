"""Run a block of code: it is read on one thread, written by another, and stopped from any."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from queue import SimpleQueue
from typing import Any, Final

_STOPPED: Final = "KeyboardInterrupt: the code was stopped"


class CodeBlockRun:
    """A running block of code. Iterating yields its output as it arrives.

    `_lock` guards `_running` and `_is_stopped`.
    """

    def __init__(self) -> None:
        self.figures: tuple[str, ...] = ()  # pictures that it wrote, among the agent's files
        self._pieces: SimpleQueue[str | None] = SimpleQueue()
        self._is_line_over = True  # whether the output so far ends a line
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._is_stopped = False

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            yield piece

    def write(self, _: str, text: str) -> None:
        """Write to the output. The name of the stream is not used."""
        self._is_line_over = text.endswith("\n")
        self._pieces.put(text)

    def write_line(self, text: str) -> None:
        """Write whole lines to the output."""
        self.write("", text + "\n" if self._is_line_over else f"\n{text}\n")

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run the coroutine on this thread, which has no event loop, and end the iteration.

        Raises the coroutine's error; a stopped block writes a line about it.
        """
        try:
            asyncio.run(self._stoppable(work))
        except asyncio.CancelledError:
            self.write_line(_STOPPED)
        finally:
            self._pieces.put(None)

    def stop(self) -> None:
        """Cancel the block, even before it has started. Idempotent."""
        with self._lock:
            self._is_stopped = True
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)

    async def _stoppable(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        with self._lock:
            self._running = (asyncio.get_running_loop(), task)
            if self._is_stopped:
                task.cancel()
        try:
            await task
        finally:
            with self._lock:
                self._running = None
