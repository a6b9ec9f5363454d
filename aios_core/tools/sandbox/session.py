"""The handle of a session, usable from any thread and any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aios_core.tools.sandbox.cell_runner import CellRunner
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput, Stream
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox_loop import SandboxLoop


class Session:
    """A process in the sandbox that runs cells of code with shared variables.

    `Sandbox.open_session` makes one.
    """

    def __init__(
        self, owner: str, cells: CellRunner, thread: SandboxLoop, adopt: Callable[[Session], None]
    ) -> None:
        self.owner = owner
        self._cells = cells
        self._thread = thread
        self._adopt = adopt

    def __repr__(self) -> str:
        return f"<Session of {self.owner}, {self.state}>"

    @property
    def state(self) -> str:
        """One of "new", "idle", "busy" and "ended"."""
        return self._cells.state

    @property
    def why_ended(self) -> str | None:
        """The reason why it has ended; None if it has not."""
        return self._cells.why_ended

    async def execute(
        self,
        code: str,
        *,
        language: Language = "python",
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell; one runs at a time. A shell cell shares the files, not the variables.

        A cell that takes too long is interrupted, as with Ctrl-C, and so is a cell when the await
        is cancelled. If the cell does not stop then, the session is ended.

        Args:
            code: the cell.
            language: "python" or "shell".
            timeout_s: for this cell, at most `limits.wall_s`; None for `limits.wall_s`.
            on_output: called on this loop with output as it arrives.

        Raises:
            ToolError: the session has ended; `restart` makes it usable again.
            SandboxUnavailable: nothing on this machine can confine the code.
            InvalidRequest: the code is not valid text, or the language is unknown.
        """
        listen = on_this_loop(on_output)
        cell = self._cells.execute(code, language=language, timeout_s=timeout_s, on_output=listen)
        return await asyncio.wrap_future(self._thread.submit(cell))

    def execute_blocking(
        self,
        code: str,
        *,
        language: Language = "python",
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell from a thread (blocking form of `execute`).

        `on_output` is called on another thread.
        """
        cell = self._cells.execute(
            code, language=language, timeout_s=timeout_s, on_output=on_output
        )
        return self._thread.wait_for(cell)

    async def interrupt(self) -> bool:
        """Interrupt the running cell, as with Ctrl-C. Returns whether a cell was running."""
        return await asyncio.wrap_future(self._thread.submit(self._interrupt()))

    def interrupt_blocking(self) -> bool:
        """Interrupt the running cell from a thread (blocking form of `interrupt`)."""
        return self._thread.wait_for(self._interrupt())

    async def wait_idle(self) -> None:
        """Wait until no cell runs; after a cancelled await, its cell takes a moment to stop."""
        await asyncio.wrap_future(self._thread.submit(self._cells.wait_idle()))

    async def restart(self) -> None:
        """End the process; the next cell starts another, without the variables.

        Raises:
            QuotaExceeded: its owner has opened as many other sessions meanwhile as it may.
            RetryLater: all agents together have as many sessions as they may.
        """
        self._adopt(self)
        await asyncio.wrap_future(self._thread.submit(self._cells.restart()))

    def restart_blocking(self) -> None:
        """End the process from a thread (blocking form of `restart`)."""
        self._adopt(self)
        self._thread.wait_for(self._cells.restart())

    async def close(self) -> None:
        """End the session, even while a cell runs. Idempotent."""
        await asyncio.wrap_future(self._thread.submit(self._cells.close()))

    def close_blocking(self) -> None:
        """End the session from a thread (blocking form of `close`)."""
        self._thread.wait_for(self._cells.close())

    async def _interrupt(self) -> bool:
        return self._cells.interrupt()


def on_this_loop(on_output: OnOutput | None) -> OnOutput | None:
    """Wrap a listener so that it is called on the running loop, from any thread.

    A listener that is wrapped already keeps its loop, so that output goes there directly.
    """
    if on_output is None or isinstance(on_output, _OnLoop):
        return on_output
    return _OnLoop(asyncio.get_running_loop(), on_output)


@dataclass(frozen=True, slots=True)
class _OnLoop:
    """A listener that is called on its own loop, in the order of the output."""

    loop: asyncio.AbstractEventLoop
    on_output: OnOutput

    def __call__(self, stream: Stream, text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.on_output, stream, text)
