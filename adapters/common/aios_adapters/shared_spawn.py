"""Spawn a caller's agent once, when its first calls come at the same time.

Two spawns would make two agents, and the one that is kept might have the second identity
(`name-2`). A call waits only for a thread or for a task of its own loop: a task of another loop
might need the waiting thread to continue, which would be a deadlock.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

Loop = asyncio.AbstractEventLoop


@dataclass(slots=True, eq=False)
class Turn:
    """One call's attempt to spawn an agent, for which other calls may wait."""

    loop: Loop | None  # that of the spawning task; None: a thread, which blocks
    over: Future[None] = field(default_factory=Future)

    def lets_wait(self, loop: Loop | None) -> bool:
        """Return whether a call on a loop (None: on a thread) can wait without a deadlock."""
        return self.loop is None or self.loop is loop

    def end(self) -> None:
        """Wake the waiting calls: the spawn has succeeded or failed."""
        self.over.set_result(None)

    def wait(self) -> None:
        """Block until the spawn has ended."""
        self.over.result()

    async def await_end(self) -> None:
        """Wait for the end of the spawn; cancelling one wait does not affect the others."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake(_: Future[None]) -> None:
            with suppress(RuntimeError):  # the loop is closed, so no task waits there
                loop.call_soon_threadsafe(woken.set)

        self.over.add_done_callback(wake)
        await woken.wait()
