"""A thread pool for tools: threads start when needed, and are replaced while they hang.

A thread cannot be killed. When a caller has its answer and the tool still runs, another thread
may start in place of its thread, which ends with the tool. The scheduler bounds how many
threads hang that way (`max_lingering`).

`_lock` guards the counts; third-party code runs outside of it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Final

from aios_core.untrusted.third_party import describe

log = logging.getLogger(__name__)

IDLE_S: Final = 10.0  # after which a thread without work ends
CLOSING_S: Final = 1.0  # that `close` waits for threads to end


class ToolThreadPool:
    """The threads that run tools. The scheduler bounds how much work is submitted."""

    def __init__(self, name: str = "aios-tool") -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_free = 0  # threads without work, less the work that waits for one
        self._threads: set[threading.Thread] = set()
        self._numbers = count(1)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ToolThreadPool: {len(self._threads)} threads>"

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on a thread. After `close`, do nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._num_free -= 1
            needed = self._num_free < 0
            if needed:
                self._num_free += 1
                thread = threading.Thread(
                    target=self._serve, name=f"{self._name}-{next(self._numbers)}", daemon=True
                )
                self._threads.add(thread)
        self._work.put(work)
        if needed:
            thread.start()

    def close(self) -> None:
        """End the threads, and abandon those in which a tool hangs. Blocks for `CLOSING_S`."""
        with self._lock:
            self._is_closed = True
            threads = tuple(self._threads)
        for _ in threads:
            self._work.put(None)
        closing_ends_at = monotonic() + CLOSING_S
        for thread in threads:
            thread.join(max(0.0, closing_ends_at - monotonic()))
        if left := [thread.name for thread in threads if thread.is_alive()]:
            log.warning("tools hang in %s; only the end of the process ends them", left)

    def _serve(self) -> None:
        try:
            while (work := self._next()) is not None:
                try:
                    work()
                except BaseException as exc:  # noqa: BLE001 - may be raised into the thread from outside
                    log.error("a worker's task raised %s", describe(exc))  # noqa: TRY400
                finally:
                    del work  # or else this frame keeps the objects of the call alive
                    with self._lock:
                        self._num_free += 1
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._work.get(timeout=IDLE_S)
        except queue.Empty:
            with self._lock:
                if self._num_free <= 0:  # work was submitted, and its `put` follows
                    return self._work.get()
                self._num_free -= 1
                return None
