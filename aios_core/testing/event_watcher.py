"""Wait in a test for events of a kernel."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from aios_core.events import EventKind, KernelEvent

TIMEOUT_S = 30.0  # seconds; reached only by a test that fails
FOREVER_S = 3600.0  # seconds of a scripted answer that must never arrive


class EventWatcher:
    """An observer that counts events, and waits until there were enough of a kind."""

    def __init__(self) -> None:
        self.events: list[KernelEvent] = []
        self.counts: Counter[EventKind] = Counter()
        self._changed = threading.Condition()

    def __call__(self, event: KernelEvent) -> None:
        with self._changed:
            self.events.append(event)
            self.counts[event.kind] += 1
            self._changed.notify_all()

    def wait(self, kind: EventKind, count: int = 1) -> None:
        """Wait until there were `count` such events. Fails after 30 seconds."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.counts[kind] >= count, TIMEOUT_S)
        assert came, f"{self.counts[kind]} of {count} times {kind!r}; saw {dict(self.counts)}"

    async def async_wait(self, kind: EventKind, count: int = 1) -> None:
        """Wait for events without blocking the event loop (async form of `wait`)."""
        await asyncio.to_thread(self.wait, kind, count)

    def callers(self) -> list[int | None]:
        """Return the pid of each submitted call, in order."""
        return [event.pid for event in self.events if event.kind is EventKind.SUBMITTED]

    def names(self) -> dict[int | None, str]:
        """Return the name of each agent by its pid."""
        spawned = [event for event in self.events if event.kind is EventKind.AGENT_SPAWNED]
        return {event.pid: event.facts["name"] for event in spawned}
