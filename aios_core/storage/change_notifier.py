"""Notify waiting requests when an owner's files change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class ChangeNotifier:
    """Wakes the waiters of an owner at its next change. Used on the kernel's loop only."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}  # by owner

    @contextmanager
    def next_change(self, owner: str) -> Iterator[asyncio.Future[None]]:
        """Return a future, valid in the `with` block, that the owner's next change resolves."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(owner, set())
        waiters.add(waiter)
        try:
            yield waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiting.get(owner) is waiters:
                del self._waiting[owner]

    def notify(self, owner: str) -> None:
        """Wake all waiters of an owner: a change of its files is durable."""
        for waiter in self._waiting.pop(owner, ()):
            if not waiter.done():
                waiter.set_result(None)
