"""The handle of a session, for any thread and any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aios_core.tools.sandbox.cell_runner import Notebook
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput, Stream
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox_loop import LoopThread


class Session:
    """Cells of code that find each other's variables; see `cell_runner`. Made by a `Sandbox`."""

    def __init__(
        self, owner: str, notebook: Notebook, thread: LoopThread, admit: Callable[[Session], None]
    ) -> None:
        self.owner = owner
        self._notebook = notebook
        self._thread = thread
        self._admit = admit

    def __repr__(self) -> str:
        return f"<Session of {self.owner}, {self.state}>"

    @property
    def state(self) -> str:
        """One of "new", "idle", "busy" and "ended"."""
        return self._notebook.state

    @property
    def why_ended(self) -> str | None:
        """Why it has ended, in words; None: it has not."""
        return self._notebook.why_ended

    async def execute(
        self,
        code: str,
        *,
        language: Language = "python",
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell; one runs at a time. A shell cell shares the files, not the variables.

        A cell that takes too long, or whose await is cancelled, is interrupted, as with Ctrl-C;
        if that does not end it, the session is ended. `on_output` is called on this loop.

        Raises:
            ToolError: the session has ended; `restart` lets it begin anew.
            SandboxUnavailable: nothing here can confine it.
            InvalidRequest: the code or the language is none.
        """
        listen = on_this_loop(on_output)
        cell = self._notebook.execute(
            code, language=language, timeout_s=timeout_s, on_output=listen
        )
        return await asyncio.wrap_future(self._thread.submit(cell))

    def execute_blocking(
        self,
        code: str,
        *,
        language: Language = "python",
        timeout_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """The same for a thread. `on_output` is called on another one."""
        cell = self._notebook.execute(
            code, language=language, timeout_s=timeout_s, on_output=on_output
        )
        return self._thread.wait_for(cell)

    async def interrupt(self) -> bool:
        """Interrupt the running cell, as with Ctrl-C. Whether there was one."""
        return await asyncio.wrap_future(self._thread.submit(self._interrupt()))

    def interrupt_blocking(self) -> bool:
        """The same for a thread."""
        return self._thread.wait_for(self._interrupt())

    async def settle(self) -> None:
        """Wait until no cell runs: one whose await was cancelled takes a moment to stop."""
        await asyncio.wrap_future(self._thread.submit(self._notebook.settle()))

    async def restart(self) -> None:
        """End it; the next cell begins it anew, without variables.

        Raises:
            QuotaExceeded: its owner has opened others meanwhile.
        """
        self._admit(self)
        await asyncio.wrap_future(self._thread.submit(self._notebook.restart()))

    def restart_blocking(self) -> None:
        """The same for a thread."""
        self._admit(self)
        self._thread.wait_for(self._notebook.restart())

    async def close(self) -> None:
        """End it, whatever it does. Idempotent."""
        await asyncio.wrap_future(self._thread.submit(self._notebook.close()))

    def close_blocking(self) -> None:
        """The same for a thread."""
        self._thread.wait_for(self._notebook.close())

    async def _interrupt(self) -> bool:
        return self._notebook.interrupt()


def on_this_loop(on_output: OnOutput | None) -> OnOutput | None:
    """The same, called on the running loop wherever it is called from.

    One that has a loop already keeps it, so that pieces go there straight away.
    """
    if on_output is None or isinstance(on_output, _OnLoop):
        return on_output
    return _OnLoop(asyncio.get_running_loop(), on_output)


@dataclass(frozen=True, slots=True)
class _OnLoop:
    """A listener that is called on its own loop, in the order of the pieces."""

    loop: asyncio.AbstractEventLoop
    on_output: OnOutput

    def __call__(self, stream: Stream, text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody listens any more
            self.loop.call_soon_threadsafe(self.on_output, stream, text)
