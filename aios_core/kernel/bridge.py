"""Crossings between the kernel's loop and everybody else.

A caller may be on the kernel's own loop (no crossing), on another event loop, or
on a plain thread. For each there is an `Answer` that brings the outcome home, and
a stream that brings deltas home. `LoopThread` is the thread on which the kernel's
loop runs when the program has none for it.

No lock is held across a crossing, and nothing here waits on the kernel's loop.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from aios_core.errors import KernelBug
from aios_core.messages import Completion, Delta
from aios_core.redaction import scrub
from aios_core.untrusted.third_party import log_raised

T = TypeVar("T")
log = logging.getLogger(__name__)

GRACE_S: Final = 10.0  # for cancelled tasks, at the end of a loop


class LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self, name: str = "aios-kernel") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its result, on the calling thread."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self, *, within_s: float | None = None) -> None:
        """Cancel what runs there, stop the loop and join the thread. Idempotent.

        Args:
            within_s: seconds to wait for the thread; None: until it has ended.
        """
        if self._thread.is_alive() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(within_s)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._run_until_stopped()
            self._end_tasks()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()

    def _run_until_stopped(self) -> None:
        """Run the loop. A `sys.exit()` in one callback does not end it."""
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:  # Ctrl-C is the main thread's
                log_raised(
                    log, exc, "code on the kernel's loop tried to end the program; it continues"
                )
            else:
                return

    def _end_tasks(self) -> None:
        """Cancel what still runs; what was cancelled already (Ctrl-C) may free what it has."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=GRACE_S))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # mark it as retrieved: no caller is left


class LocalAnswer:
    """For a caller on the kernel's own loop."""

    wants_deltas = False

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Completion] = loop.create_future()

    def delta(self, delta: Delta) -> None:
        """Ignore a delta: this caller wants the whole answer."""

    def resolve(self, completion: Completion) -> None:
        if not self.future.done():
            self.future.set_result(completion)

    def reject(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(scrub(error))


class LoopAnswer(LocalAnswer):
    """For a caller on another event loop."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._loop = loop

    def resolve(self, completion: Completion) -> None:
        _post(self._loop, super().resolve, completion)

    def reject(self, error: BaseException) -> None:
        _post(self._loop, super().reject, error)


class ThreadAnswer:
    """For a caller that waits on a thread. The future is the caller's, who may cancel it."""

    wants_deltas = False

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[Completion] = Future()

    def delta(self, delta: Delta) -> None:
        """Ignore a delta: this caller wants the whole answer."""

    def resolve(self, completion: Completion) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)

    def reject(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(scrub(error))


class Withdrawable(Protocol):
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
        self.call: Withdrawable | None = None
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


class _Mailbox:
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
        _post(self._loop, self.put, item)

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
        self._mailbox = _Mailbox(loop)
        # `is_local`: the loop is the kernel's own
        self.answer = StreamAnswer(self._mailbox.put if is_local else self._mailbox.post)
        self.call: Withdrawable | None = None
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
            item = await self._mailbox.get()
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


def _post(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], value: object) -> None:
    try:
        loop.call_soon_threadsafe(function, value)
    except RuntimeError:
        return  # the caller's loop is closed: no caller is left
