"""Remove expired items on a thread, as LangGraph's database stores do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

log = logging.getLogger(__name__)


class Sweeper:
    """A thread that calls `sweep` at regular intervals, from `start` to `stop`."""

    def __init__(self, sweep: Callable[[], int]) -> None:
        self._sweep = sweep
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval_s: float) -> Future[None]:
        """Start the thread, unless it runs already. Cancelling the future stops it."""
        future: Future[None] = Future()
        future.add_done_callback(lambda done: self._stopped.set() if done.cancelled() else None)
        if self._thread is None or not self._thread.is_alive():
            self._stopped = threading.Event()
            about = (future, interval_s, self._stopped)
            self._thread = threading.Thread(
                target=self._run, args=about, name="aios-ttl-sweeper", daemon=True
            )
            self._thread.start()
        return future

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop the thread and wait for it. Returns whether it has ended."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, future: Future[None], interval_s: float, stopped: threading.Event) -> None:
        while not stopped.wait(interval_s):
            try:
                self._sweep()
            except Exception:
                log.exception("removing expired items failed; it will be tried again")
        if not future.done():
            future.set_result(None)
