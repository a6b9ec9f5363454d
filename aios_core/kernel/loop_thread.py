"""The thread on which the kernel's loop runs when the program has none for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from aios_core.untrusted.third_party import log_raised

T = TypeVar("T")
log = logging.getLogger(__name__)

GRACE_S: Final = 10.0  # for cancelled tasks, at the end of a loop


class LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self, name: str = "aios-kernel") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its result, on the calling thread."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self, *, within_s: float | None = None) -> None:
        """Cancel what runs there, stop the loop and join the thread. Idempotent.

        Args:
            within_s: seconds to wait for the thread; None: until it has ended.
        """
        if self._thread.is_alive() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(within_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._run_until_stopped()
            self._end_tasks()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()

    def _run_until_stopped(self) -> None:
        """Run the loop. A `sys.exit()` in one callback does not end it."""
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:  # Ctrl-C is the main thread's
                log_raised(
                    log, exc, "code on the kernel's loop tried to end the program; it continues"
                )
            else:
                return

    def _end_tasks(self) -> None:
        """Cancel what still runs; what was cancelled already (Ctrl-C) may free what it has."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=GRACE_S))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # mark it as retrieved: no caller is left
