"""Cancel a task twice, to find cleanups that a second cancellation interrupts."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel_twice(task: asyncio.Future[Any], num_steps: int) -> BaseException | None:
    """Cancel a task, let the loop take `num_steps` steps, cancel it again, and await its end.

    Run a test with each small number of steps: a cleanup has its weak moment at one of them.

    Returns:
        The task's exception, a `CancelledError` included; None if it returned a value.
    """
    task.cancel()
    for _ in range(num_steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()
