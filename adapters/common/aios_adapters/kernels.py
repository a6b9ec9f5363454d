"""Start or return the default kernel of the process without blocking an event loop."""

from __future__ import annotations

import asyncio
import os

from aios_core.kernel import Kernel
from aios_core.kernel.default import default_kernel

_ready_in: int | None = None  # the id of the process in which the default kernel is known to run


async def adefault_kernel() -> Kernel:
    """Return the default kernel; start it on a worker thread if it does not run yet.

    Starting it may load a model, which would block the event loop for seconds.
    """
    global _ready_in  # noqa: PLW0603 - a hint only; the truth is in `default_kernel`
    if _ready_in == os.getpid():
        return default_kernel()
    kernel = await asyncio.to_thread(default_kernel)
    _ready_in = os.getpid()
    return kernel
