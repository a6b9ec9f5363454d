"""A lock for state that finalizers change too.

A garbage collection may run at any allocation, on any thread, while that thread holds any lock.
A finalizer that waits for a lock can therefore deadlock: another thread may hold that lock and
wait for one of the locks of the thread that collects. Nor may a finalizer run inside a critical
section of its own thread, which may be iterating over the state. So a finalizer hands its work
over with `run_soon`, which never waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from aios_core.fork_safety import free_after_fork

#: Changes the state under the lock. Returns what to do once it is released, if anything.
Work = Callable[[], Callable[[], object] | None]


class FinalizerLock:
    """A lock (not reentrant) that also runs the work of finalizers, one at a time."""

    def __init__(self) -> None:
        self._lock = free_after_fork(threading.Lock())
        self._pending: deque[Work] = deque()  # appending and popping are atomic

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._run_pending()

    def run_soon(self, work: Work) -> None:
        """Run `work` under the lock: now if it is free, else when its holder releases it."""
        self._pending.append(work)
        self._run_pending()

    def _run_pending(self) -> None:
        # If the lock is taken, its holder gets here after its release and finds the work.
        while self._pending and self._lock.acquire(blocking=False):
            afterwards = []
            try:
                while self._pending:
                    afterwards.append(self._pending.popleft()())
            finally:
                self._lock.release()
            for call in afterwards:
                if call is not None:
                    call()
