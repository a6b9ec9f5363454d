"""Replace locks in a forked child, where no thread would ever release them.

A fork copies a lock as it is, and of all threads only the one that forked. A lock that
another thread held at that moment would never be free in the child.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from weakref import WeakSet

L = TypeVar("L", bound=AbstractContextManager[Any])  # a `threading.Lock` or `threading.RLock`
_locks: WeakSet[Any] = WeakSet()


def free_after_fork(lock: L) -> L:
    """Free a lock in a forked child, even if a thread of the parent held it. Returns it."""
    _locks.add(lock)
    return lock


def _free_all() -> None:
    for lock in tuple(_locks):
        lock._at_fork_reinit()  # noqa: SLF001 - as `threading` does


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
