"""Who spawns the agent of a caller whose first calls come at the same time, and who waits for it.

A second agent would be spawned for nothing, and might be the one that is kept, with the
identity of a second. Nobody waits for somebody who may need him to go on: a call waits for
a thread, or for a task of its own loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

Loop = asyncio.AbstractEventLoop


@dataclass(slots=True, eq=False)
class Turn:
    """One call's turn to spawn an agent."""

    loop: Loop | None  # on which it awaits that; None: on a thread, which blocks
    over: Future[None] = field(default_factory=Future)

    def lets_wait(self, loop: Loop | None) -> bool:
        """Return whether a call on that loop (None: on a thread) can wait for it without harm."""
        return self.loop is None or self.loop is loop

    def end(self) -> None:
        """It has spawned, or could not."""
        self.over.set_result(None)

    def wait(self) -> None:
        """Block until it is over."""
        self.over.result()

    async def await_end(self) -> None:
        """Await that it is over; a wait that is cancelled leaves the others theirs."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake(_: Future[None]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(woken.set)

        self.over.add_done_callback(wake)
        await woken.wait()
