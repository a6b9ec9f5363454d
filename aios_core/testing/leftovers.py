"""Find what a piece of code leaves behind: threads, tasks, child processes.

A closed kernel leaves none of these. `nothing_left` holds a block of code to that.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TIMEOUT_S = 2.0  # real seconds, spent only on failure


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The threads, tasks and child processes that are alive at one moment."""

    threads: frozenset[threading.Thread] = frozenset()
    tasks: frozenset[asyncio.Task[object]] = frozenset()  # of the running loop, if there is one
    children: frozenset[int] = frozenset()  # process ids

    @classmethod
    def now(cls) -> Self:
        return cls(
            threads=frozenset(threading.enumerate()),
            tasks=frozenset(_tasks()),
            children=frozenset(_children()),
        )

    def __sub__(self, before: Leftovers) -> Leftovers:
        return Leftovers(
            frozenset(t for t in self.threads - before.threads if t.is_alive()),
            frozenset(t for t in self.tasks - before.tasks if not t.done()),
            self.children - before.children,
        )

    def __bool__(self) -> bool:
        return bool(self.threads or self.tasks or self.children)

    def __str__(self) -> str:
        named: dict[str, list[str]] = {
            "threads": [thread.name for thread in self.threads],
            "tasks": [task.get_name() for task in self.tasks],
            "child processes": [str(pid) for pid in self.children],
        }
        return ", ".join(f"{kind} {sorted(found)}" for kind, found in named.items() if found)


@contextmanager
def nothing_left(timeout_s: float = _TIMEOUT_S) -> Iterator[None]:
    """Raise `AssertionError` if the block leaves anything behind that was not there before.

    Threads and tasks that are about to end get `timeout_s` seconds of real time to do so.
    """
    before = Leftovers.now()
    yield
    give_up_at = time.monotonic() + timeout_s
    while (left := Leftovers.now() - before) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert not left, f"left behind: {left}"


def _tasks() -> set[asyncio.Task[object]]:
    try:
        return asyncio.all_tasks()
    except RuntimeError:  # no loop runs in this thread
        return set()


def _children() -> set[int]:
    """Return the child processes: all of them where /proc exists, else those of multiprocessing."""
    found = {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, listing.read_text().split()))
        except OSError:  # the thread ended meanwhile
            continue
    return found
