"""The kernel of the process, for those who must not block an event loop."""

from __future__ import annotations

import asyncio
import os

from aios_core.kernel import Kernel
from aios_core.kernel.default import default_kernel

_ready_in: int | None = None  # the process whose default kernel is known to run


async def adefault_kernel() -> Kernel:
    """The default kernel. The first time it is started elsewhere: loading a model takes a while."""
    global _ready_in  # noqa: PLW0603 - a hint only; the truth is in `default_kernel`
    if _ready_in == os.getpid():
        return default_kernel()
    kernel = await asyncio.to_thread(default_kernel)
    _ready_in = os.getpid()
    return kernel
