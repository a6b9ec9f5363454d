"""Tells those who froze an agent when no core works on it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler.call import Call


class Stillness:
    """Runs on the kernel's loop."""

    def __init__(self) -> None:
        self.waiters: list[tuple[AgentProcess, asyncio.Future[None]]] = []

    def of(self, process: AgentProcess, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that is done when a `look` finds the agent off the cores."""
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiters.append((process, waiter))
        return waiter

    def look(self, running: Iterable[Call]) -> None:
        """Calls have left their cores; these are on one."""
        busy = {call.process for call in running if call.process.state is ProcessState.FROZEN}
        waiters, self.waiters = self.waiters, []
        for process, waiter in waiters:
            if process in busy:
                self.waiters.append((process, waiter))
            elif not waiter.done():
                waiter.set_result(None)
