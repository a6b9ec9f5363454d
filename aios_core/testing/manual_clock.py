"""A clock that a test turns by hand.

It implements `aios_core.clock.Clock` and owns no thread and no loop: time stands
still until `advance` is called, which then runs what has become due, in the order
of due times and, among equals, of scheduling.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from aios_core.clock import Timer


class ManualTimer:
    """A callback on a `ManualClock`."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def __repr__(self) -> str:
        return f"<ManualTimer at {self.when:g}{'' if self.callback else ', over'}>"

    def cancel(self) -> None:
        """Make sure that the callback does not run. Idempotent."""
        self.callback = None


class ManualClock:
    """Time that passes only in `advance`.

    >>> clock = ManualClock()
    >>> rings = []
    >>> timer = clock.call_at(2.0, lambda: rings.append(clock.now()))
    >>> clock.advance(5.0)
    >>> rings, clock.now()
    ([2.0], 5.0)
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g}: {self.num_timers} timers>"

    @property
    def num_timers(self) -> int:
        """Timers that have neither run nor been cancelled."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def now(self) -> float:
        """Seconds since the clock's origin."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` in the `advance` that reaches `when`, or in the next one if it is past."""
        timer = ManualTimer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and run the timers that become due, new ones among them.

        While a timer runs, `now()` is the instant for which it was set. What a
        callback raises is raised here; the clock then stands at that instant.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards: advance({seconds:g})")
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._now = max(self._now, when)
                callback()
        self._now = end
