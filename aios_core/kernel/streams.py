"""Answers that arrive piece by piece, for callers on a thread or on any event loop.

No lock is held while a delta crosses from the kernel's loop, and nothing here waits on that loop.
"""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from aios_core.errors import KernelBug
from aios_core.messages import Completion, Delta
from aios_core.redaction import scrub


class Cancellable(Protocol):
    """A call that was submitted."""

    def withdraw(self) -> None:
        """Cancel it, from any thread; nothing happens if it was answered already."""


Item = Delta | Completion | BaseException


class StreamAnswer:
    """The kernel's end of a stream. It does not know the caller's, which may be forgotten."""

    wants_deltas = True

    __slots__ = ("put",)

    def __init__(self, put: Callable[[Item], object]) -> None:
        self.put = put

    def delta(self, delta: Delta) -> None:
        self.put(delta)

    def resolve(self, completion: Completion) -> None:
        self.put(completion)

    def reject(self, error: BaseException) -> None:
        self.put(scrub(error))


class Stream:
    """The deltas of one call, for a plain thread: iterate, then read `completion`.

    A context manager; leaving or forgetting it before the end cancels the call.
    """

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.answer = StreamAnswer(self._items.put)
        self.call: Cancellable | None = None
        self._completion: Completion | None = None
        self._is_over = False

    @property
    def completion(self) -> Completion:
        """The whole answer, once the stream is exhausted."""
        return _required(self._completion)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        if self._is_over:
            raise StopIteration
        try:
            item = self._items.get()
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        if isinstance(item, Delta):
            return item
        self._is_over = True
        if isinstance(item, Completion):
            self._completion = item
            raise StopIteration
        raise item

    def close(self) -> None:
        """Cancel the call if it is still running. Idempotent."""
        if not self._is_over:
            self._is_over = True
            if self.call:
                self.call.withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _DeltaQueue:
    """Items for a reader on an event loop, who may wait for the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Item) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def post(self, item: Item) -> None:
        """Put an item from any thread."""
        post_to(self._loop, self.put, item)

    async def get(self) -> Item:
        while not self._items:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._items.popleft()


class AsyncStream:
    """The deltas of one call, for an event loop: iterate, then read `completion`.

    An async context manager; leaving or forgetting it before the end cancels the call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_local: bool) -> None:
        self._deltas = _DeltaQueue(loop)
        # `is_local`: the loop is the kernel's own
        self.answer = StreamAnswer(self._deltas.put if is_local else self._deltas.post)
        self.call: Cancellable | None = None
        self._completion: Completion | None = None
        self._is_over = False

    @property
    def completion(self) -> Completion:
        """The whole answer, once the stream is exhausted."""
        return _required(self._completion)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._is_over:
            raise StopAsyncIteration
        try:
            item = await self._deltas.get()
        except BaseException:  # cancelled while waiting
            self.close()
            raise
        if isinstance(item, Delta):
            return item
        self._is_over = True
        if isinstance(item, Completion):
            self._completion = item
            raise StopAsyncIteration
        raise item

    def close(self) -> None:
        """Cancel the call if it is still running. Idempotent."""
        if not self._is_over:
            self._is_over = True
            if self.call:
                self.call.withdraw()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _required(completion: Completion | None) -> Completion:
    if completion is None:
        raise KernelBug("the stream has not ended; its completion is not known yet")
    return completion


def post_to(
    loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], value: object
) -> None:
    try:
        loop.call_soon_threadsafe(function, value)
    except RuntimeError:
        return  # the caller's loop is closed: no caller is left
