"""Call foreign code that blocks on threads that nothing else waits for.

Loading plug-ins, asking an approver, checking a third party's schema: what these do may take
any time. They get a thread of their own, not one of the event loop's pool, which memory, state
and the end of the program need; a thread that hangs is left behind, and ends with the process.
How many run at once is bounded by those who call this.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aios_core.untrusted.third_party import ForeignException, describe

T = TypeVar("T")


async def call_on_thread(
    function: Callable[[], T],
    name: str,
    *,
    timeout_s: float | None = None,
    on_late: Callable[[T], object] | None = None,
    on_end: Callable[[], object] | None = None,
) -> T:
    """Run a function on a new thread and await its result.

    Args:
        function: runs on the thread; a cancelled await does not end it.
        name: of the thread.
        timeout_s: seconds of real time until the await raises `TimeoutError`.
        on_late: called on the loop with a result that comes after that, or after a cancel.
        on_end: called on the loop when the function has really ended.

    Raises:
        TimeoutError: it took too long.
        Exception: what it raised.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    settle = partial(_settle, answer, on_late, on_end)
    watch = threading.Timer(timeout_s or 0.0, _post, [loop, partial(_expire, answer, timeout_s)])

    def run() -> None:
        result: Any = None
        raised: BaseException | None = None
        try:
            result = function()
        except BaseException as exc:  # noqa: BLE001 - the caller's to know
            raised = exc
        watch.cancel()
        _post(loop, partial(settle, result, raised))

    if timeout_s is not None:
        watch.daemon = True
        watch.start()
    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer


def _settle(
    answer: asyncio.Future[T],
    on_late: Callable[[T], object] | None,
    on_end: Callable[[], object] | None,
    result: T,
    raised: BaseException | None,
) -> None:
    if on_end is not None:
        on_end()
    if answer.done():
        if raised is None and on_late is not None:
            on_late(result)
    elif raised is None:
        answer.set_result(result)
    else:
        kind = type(raised)
        is_plain = issubclass(kind, Exception) and not issubclass(kind, StopIteration)
        answer.set_exception(raised if is_plain else ForeignException(describe(raised)))


def _expire(answer: asyncio.Future[Any], timeout_s: float | None) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError(f"not done within {timeout_s:g} s"))


def _post(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop has ended
        return
