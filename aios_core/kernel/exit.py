"""Close kernels at interpreter exit, before Python shuts down its thread pools.

Python stops the pools before it runs what `atexit` has, and closing a kernel needs
them. What was registered last is called first, so the pools' own module has to be
imported before: `concurrent.futures.thread`.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread
import logging
import sys
import threading
import time
from typing import Final, Protocol

from aios_core.fork_safety import free_after_fork

log = logging.getLogger(__name__)


POLL_S: Final = 0.05
IDLE_S: Final = 5.0  # a thread that asked nothing for so long may wait for the end itself


class Closable(Protocol):
    """Something to close when the program ends."""

    @property
    def num_in_flight(self) -> int:
        """Calls that it serves just now."""

    def close(self) -> None:
        """End it. Idempotent."""


class _OpenKernels:
    """The kernels and other objects that are still open."""

    def __init__(self) -> None:
        self._lock = free_after_fork(threading.Lock())  # guards what follows
        self._left: dict[int, Closable] = {}
        self._is_registered = False

    def add(self, one: Closable) -> None:
        with self._lock:
            self._left[id(one)] = one
            if not self._is_registered:
                self._is_registered = True
                getattr(threading, "_register_atexit", atexit.register)(self._close_all)

    def remove(self, one: Closable) -> None:
        with self._lock:
            self._left.pop(id(one), None)

    def _close_all(self) -> None:
        self._await_threads()
        while True:
            with self._lock:
                if not self._left:
                    return
                _, one = self._left.popitem()  # the latest first
            try:
                one.close()
            except Exception:
                log.exception("%r could not be closed at exit", one)

    def _await_threads(self) -> None:
        """Wait for the program's own threads, as Python does a moment later, while they call."""
        deadline = time.monotonic() + IDLE_S
        while (others := _own_threads()) and time.monotonic() < deadline:
            others[0].join(POLL_S)
            with self._lock:
                left = tuple(self._left.values())
            if not left:
                return
            if any(one.num_in_flight for one in left):
                deadline = time.monotonic() + IDLE_S


def _own_threads() -> list[threading.Thread]:
    """Those that Python would wait for; without those of pools, which end only after this."""
    pools = {*concurrent.futures.thread._threads_queues}  # noqa: SLF001
    if (processes := sys.modules.get("concurrent.futures.process")) is not None:
        pools |= {*processes._threads_wakeups}  # noqa: SLF001
    here = threading.current_thread()
    return [
        thread
        for thread in threading.enumerate()
        if thread is not here and not thread.daemon and thread not in pools
    ]


_leftovers = _OpenKernels()


def register_for_exit(one: Closable) -> None:
    """Have it closed when the program ends, unless `closed` comes first."""
    _leftovers.add(one)


def unregister(one: Closable) -> None:
    """It was closed in time."""
    _leftovers.remove(one)
