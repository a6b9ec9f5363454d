"""The way onto the kernel's loop, from any thread and any other event loop.

Nothing here waits while it is on the loop itself: what would, is refused with
`WouldBlock` instead of hanging for ever.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from aios_core.errors import KernelClosed, KernelError, WouldBlock

T = TypeVar("T")


class LoopPortal:
    """One event loop, seen from outside. Not bound to it before `bind`, nor after `close`."""

    def __init__(self) -> None:
        self.bound: asyncio.AbstractEventLoop | None = None  # the loop, closed or not
        self._thread = 0  # identity of the loop's thread
        self.is_closed = False
        self.forked_from: int | None = None  # the process that has the loop, if this is its child

    @property
    def is_bound(self) -> bool:
        """Whether there is, or was, a loop."""
        return self.bound is not None

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is the loop's."""
        return self.bound is not None and threading.get_ident() == self._thread

    def bind(self) -> asyncio.AbstractEventLoop:
        """Take the running loop. On its thread."""
        self.bound = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        return self.bound

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises `KernelClosed` before `bind` and after closing."""
        if self.bound is None:
            raise KernelClosed("the kernel is not started; use `with Kernel() as kernel:`")
        if self.forked_from is not None:
            raise KernelClosed(
                f"the kernel runs in process {self.forked_from}, from which this one was forked; "
                "make a kernel here, or call `default_kernel` for one with its configuration"
            )
        if self.is_closed:
            raise KernelClosed("the kernel is closed")
        return self.bound

    def require_off_loop(self, instead: str) -> None:
        """Raise `WouldBlock` on the loop's thread; the error recommends `instead`."""
        self.loop()
        if self.is_current:
            raise WouldBlock(f"this is the kernel's own loop; use {instead}")

    def watch_forks(self) -> None:
        """Have `leave_behind` called in children that are forked from this process."""
        _watching.add(self)

    def leave_behind(self, parent: int) -> None:
        """Give up the loop in a forked child: it runs in the parent only."""
        self.is_closed = True
        self.forked_from = self.forked_from or parent

    def post(self, function: Callable[[], object]) -> None:
        """Run a function on the loop, soon; at once if this is the loop's thread."""
        loop = self.loop()
        if self.is_current:
            function()
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError as exc:
            raise KernelClosed("the kernel is closed") from exc

    def post_if_open(self, function: Callable[[], object]) -> None:
        """Run a function on the loop later, if there still is one.

        Never at once and never raising, so that even a garbage collector may call it.
        """
        if self.bound is None or self.forked_from is not None:
            return
        try:
            self.bound.call_soon_threadsafe(function)
        except RuntimeError:
            return

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the loop and wait for its result; it must not wait itself."""
        if self.is_current:
            self.loop()
            return function()
        future: Future[T] = Future()
        self.post(partial(_settle, future, function))
        return future.result()

    async def acall(self, function: Callable[[], T]) -> T:
        """Run a function on the loop and await its result, from any loop."""
        if asyncio.get_running_loop() is self.loop():
            return function()
        future: Future[T] = Future()
        self.post(partial(_settle, future, function))
        return await asyncio.wrap_future(future)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result, on another thread."""
        try:
            self.require_off_loop("the asynchronous form")
        except KernelError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self.loop())
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that must run on the loop, from any loop."""
        try:
            loop = self.loop()
        except KernelClosed:
            work.close()
            raise
        if asyncio.get_running_loop() is loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # the caller was cancelled before the function started
    try:
        future.set_result(function())
    except BaseException as exc:  # noqa: BLE001 - it is the caller's, who waits for it
        future.set_exception(exc)


_watching: WeakSet[LoopPortal] = WeakSet()


def _leave_all_behind() -> None:
    """Close the parent's kernels in a forked child, where their threads do not exist."""
    for portal in _watching:
        portal.leave_behind(os.getppid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_behind)
