"""Tells those who wait that an owner's files have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class News:
    """Runs on the kernel's loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}  # by owner

    @contextmanager
    def next_of(self, owner: str) -> Iterator[asyncio.Future[None]]:
        """A future that the owner's next change makes done, for as long as somebody cares."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(owner, set())
        waiters.add(waiter)
        try:
            yield waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiting.get(owner) is waiters:
                del self._waiting[owner]

    def tell(self, owner: str) -> None:
        """A change to the owner's files is durable."""
        for waiter in self._waiting.pop(owner, ()):
            if not waiter.done():
                waiter.set_result(None)
