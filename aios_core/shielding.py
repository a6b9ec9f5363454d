"""Await work to its end, even if the await is cancelled.

A cleanup of two steps in a `finally` is not safe by itself: a second cancellation interrupts the
first step, and the other one never runs. `finish_shielded` runs all steps, however often it is
cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def finish_shielded(work: Awaitable[T]) -> T:
    """Await work; if the await is cancelled, also twice, wait for its end and then raise.

    For cleanups, and for work on a thread, which cannot be cancelled: the next user of the same
    files or process must not run while it still does. The work must end by itself: it is a task
    of its own, which no cancellation reaches.
    """
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with suppress(asyncio.CancelledError):  # what was cancelled once is raised below
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # retrieve it, so that asyncio logs no warning
        raise
