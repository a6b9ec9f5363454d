"""Time, as the kernel sees it.

The kernel asks one `Clock` for the time and for timers, so that the same kernel
runs on real time, on virtual time (`aios_core.testing.run_virtual`) and on a
hand-turned clock in unit tests (`aios_core.testing.ManualClock`). Times are
seconds on a monotonic scale of no particular origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None:
        """Make sure that the callback does not run. Idempotent."""


class Clock(Protocol):
    """The two things that the kernel wants from time."""

    def now(self) -> float:
        """Seconds since some fixed instant; never runs backwards."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` on the kernel's loop once `now()` has reached `when`."""


class LoopClock:
    """The time of an asyncio event loop, virtual if the loop's time is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_at(when, callback)
