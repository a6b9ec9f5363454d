"""An asyncio event loop on virtual time, which costs no real time.

When nothing is ready, a `VirtualLoop` does not wait for its next timer: it sets
its clock forward to it. A simulation of hours takes as long as its callbacks
take, and runs the same way each time. `asyncio.sleep`, `wait_for` and `timeout`
work unchanged, since they ask the loop for the time.

Where virtual time meets real threads:

- While a job given to `run_in_executor` (`asyncio.to_thread`) is at work, virtual
  time stands still and the loop really waits, so such a job takes no virtual time
  and cannot be overtaken by a timer.
- `call_soon_threadsafe` works from any thread. Virtual time does not wait for
  other threads, though: what they send arrives whenever it arrives.
- If nothing is ready, nothing is timed and no job is running, nothing in this thread
  can ever wake the loop. If there are other threads, they get `thread_wait_s` real seconds
  to do so; then, or at once if there are none, the loop raises `Deadlock`.

Sockets and child processes are polled, never waited for: use real time for them.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(RuntimeError):
    """The work on a virtual loop is not done, and nothing can wake the loop again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, which starts at 0 seconds."""

    def __init__(self, *, thread_wait_s: float = 1.0) -> None:
        self._now = 0.0
        self._jobs = 0  # in executors; virtual time stands still meanwhile
        self._thread_wait_s = thread_wait_s
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a job in an executor; virtual time stands still until the job is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """Join the executor's threads, however long they take, in no virtual time."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jobs -= 1

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    def _real_wait_s(self, timeout: float | None) -> float | None:
        """Return the real seconds to wait for other threads, from the timeout of asyncio."""
        if timeout == 0:
            return 0.0
        if self._jobs:
            return None
        if timeout is None and threading.active_count() > 1:
            return self._thread_wait_s
        return 0.0

    def _jump(self, timeout: float | None) -> None:
        """Nothing came from outside: go to the next timer."""
        if self._jobs:
            return
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if timeout is None or not timers:
            raise Deadlock(self._story())
        self._now = max(self._now, timers[0].when())

    def _story(self) -> str:
        head = f"at {self._now:g} virtual seconds nothing is ready and no timer is set; waiting:"
        return "\n".join([head, *sorted(map(_place, asyncio.all_tasks(self)))])


def run_virtual(coro: Coroutine[Any, Any, T], *, thread_wait_s: float = 1.0) -> T:
    """Run a coroutine to its end on virtual time, as `asyncio.run` does on real time.

    Raises:
        Deadlock: nothing can wake the loop; names the tasks that wait.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(thread_wait_s=thread_wait_s)) as runner:
        return runner.run(coro)


class _JumpingSelector(selectors.DefaultSelector):
    """Where asyncio would wait; here the loop jumps instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(self._loop._real_wait_s(timeout))  # noqa: SLF001 - one class in two
        if not events and timeout != 0:
            self._loop._jump(timeout)  # noqa: SLF001
        return events


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the innermost coroutine that has a frame."""
    coro: Any = task.get_coro()
    while getattr(getattr(coro, "cr_await", None), "cr_frame", None) is not None:
        coro = coro.cr_await
    frame = getattr(coro, "cr_frame", None)
    at = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "its start"
    return f"  {task.get_name()} in {getattr(coro, '__qualname__', coro)}, at {at}"
