"""Awaits that are not left before what they wait for has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Await it; if the await is cancelled, let the work end first, and be cancelled then.

    For what works on a thread, which cannot be cancelled: whoever comes next must not meet it.
    """
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if not working.done():
            await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # nobody's any more
        raise
