"""A watch on a kernel's events, for tests that wait for what happens elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from aios_core.events import EventKind, KernelEvent

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail
FOR_EVER = 3600.0  # seconds of a scripted answer that must never arrive


class Watch:
    """An observer that counts, and waits for counts."""

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
        """Until there were `count` such events. Fails if they do not come."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.counts[kind] >= count, PATIENCE)
        assert came, f"{self.counts[kind]} of {count} times {kind!r}; saw {dict(self.counts)}"

    async def await_(self, kind: EventKind, count: int = 1) -> None:
        """Wait for events without blocking the event loop (async form of `wait`)."""
        await asyncio.to_thread(self.wait, kind, count)

    def callers(self) -> list[int | None]:
        """The pid of each call, in order."""
        return [event.pid for event in self.events if event.kind is EventKind.SUBMITTED]

    def names(self) -> dict[int | None, str]:
        """The name of each agent by its pid."""
        spawned = [event for event in self.events if event.kind is EventKind.AGENT_SPAWNED]
        return {event.pid: event.facts["name"] for event in spawned}
