"""Pause a core after its endpoint asked all callers to wait (429)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0  # after a 429 without Retry-After; doubles
MAX_PAUSE_S: Final = 60.0


class CorePause:
    """The pause of one core. Calls `on_over` at its end. Used on one event loop."""

    def __init__(self, core: str, *, on_over: Callable[[], None]) -> None:
        self._core = core
        self._on_over = on_over
        self._until = 0.0  # in the loop's time; 0: no pause
        self._num_in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<CorePause of {self._core!r}: {self._num_in_a_row} in a row>"

    def left_s(self) -> float:
        """Return the rest of the pause in seconds."""
        if not self._until:
            return 0.0
        return max(0.0, self._until - asyncio.get_running_loop().time())

    def extend(self, wait_s: float | None) -> None:
        """Pause for some seconds; None: for a time that doubles with each refusal in a row.

        A refusal during a pause can only prolong it.
        """
        loop = asyncio.get_running_loop()
        if not self.left_s():
            self._num_in_a_row += 1
        if wait_s is None:
            wait_s = min(FIRST_PAUSE_S * 2.0 ** min(self._num_in_a_row - 1, 16), MAX_PAUSE_S)
        self._until = max(self._until, loop.time() + wait_s)
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(self._until, self.end)
        log.info("core %r pauses for %.3g s", self._core, self.left_s())

    def end_series(self) -> None:
        """Reset the count of refusals in a row, since the endpoint has served a call."""
        self._num_in_a_row = 0

    def reset(self) -> None:
        """End the pause and reset the count of refusals."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._until, self._num_in_a_row = 0.0, 0

    def end(self) -> None:
        """End the pause now, as if its time had passed."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._until = 0.0
        self._on_over()
