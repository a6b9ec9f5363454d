"""Threads for tools: bounded, made when needed, replaced while a call hangs in one.

A thread cannot be killed. When a caller has its answer and the tool goes on, the
pool forgets the thread: another may start in its place, and the old one ends with
its call. What that costs is bounded by the schedule (`Limits.max_lingering`).

`_lock` guards the counts; foreign code runs outside of it.
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

IDLE_S: Final = 10.0  # a thread without work ends after that long
CLOSING_S: Final = 1.0  # `close` waits that long for calls that ought to end


class Workers:
    """See the module. The schedule sees to it that no more is submitted than may run."""

    def __init__(self, name: str = "aios-tool") -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_free = 0  # threads without work, less the work that waits for one
        self._threads: set[threading.Thread] = set()
        self._numbers = count(1)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Workers: {len(self._threads)} threads>"

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread; it must not raise. Once they are closed, nothing is run."""
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
        """End the threads; those in which a call hangs are left behind. Blocks."""
        with self._lock:
            self._is_closed = True
            threads = tuple(self._threads)
        for _ in threads:
            self._work.put(None)
        patience_ends_at = monotonic() + CLOSING_S
        for thread in threads:
            thread.join(max(0.0, patience_ends_at - monotonic()))
        if left := [thread.name for thread in threads if thread.is_alive()]:
            log.warning("tools hang in %s; only the end of the process ends them", left)

    def _serve(self) -> None:
        try:
            while (work := self._next()) is not None:
                try:
                    work()
                except BaseException as exc:  # noqa: BLE001 - raised into the thread from outside
                    log.error("a worker's task raised %s", describe(exc))  # noqa: TRY400
                finally:
                    del work  # nothing of a call outlives it here
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
                if self._num_free <= 0:  # work is on its way
                    return self._work.get()
                self._num_free -= 1
                return None
