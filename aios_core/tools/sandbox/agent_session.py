"""A session of one agent: cells that share variables and work on the agent's files.

    storage ──check out──> directory ──> directory of the session ──> /work, a cell
    storage <───commit──── directory <── directory of the session <── /work

Before a cell, the files are brought to the state of the storage; afterwards, changed files
become new versions, with the labels of all that the session could read so far. After a
session has ended, the next cell starts a new one, and its result reports that. Runs on the
kernel's loop; blocking work runs on threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from aios_core.errors import SyscallCancelled, ToolError
from aios_core.shielding import finish_shielded
from aios_core.tools.sandbox.file_sync import copy_changed
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox import Sandbox
from aios_core.tools.sandbox.session import Session
from aios_core.tools.sandbox.workspace import Workspace, empty_directory, scratch

T = TypeVar("T")


class AgentSession:
    """A named session of one agent, with its files and labels.

    Invariant: one cell runs at a time; the directory exists as long as the session.
    """

    def __init__(
        self, identity: str, name: str, sandbox: Sandbox, workspace: Workspace | None
    ) -> None:
        """Prepare without starting a process; the first cell starts it."""
        self._identity = identity
        self._name = name
        self._sandbox = sandbox
        self._workspace = workspace
        self._turn = asyncio.Lock()
        self._num_cells = 0  # running or waiting
        self._session: Session | None = None
        self._files: TemporaryDirectory[str] | None = None
        self._labels: frozenset[str] = frozenset()
        self._lost: str | None = None  # why the last session ended, until a cell has reported it
        self._is_over = False

    def __repr__(self) -> str:
        state = self._session.state if self._session is not None else "asleep"
        return f"<AgentSession {self._name!r} of {self._identity}, {state}>"

    @property
    def is_busy(self) -> bool:
        """Whether a cell runs or waits."""
        return self._num_cells > 0

    @property
    def is_asleep(self) -> bool:
        """Whether it has no process and is not about to start one."""
        return not self.is_busy and (self._session is None or self._session.state == "ended")

    @property
    def needs_clean_up(self) -> bool:
        """Whether there is something for `clean_up` to free."""
        return self._files is not None

    async def execute(
        self,
        code: str,
        *,
        language: Language,
        labels: frozenset[str],
        limits: SandboxLimits | None,
        on_output: OnOutput | None,
    ) -> ExecutionResult:
        """Run a cell, as `CodeRunner.run_in_session` does. Waiting cells keep their order."""
        self._num_cells += 1
        try:
            async with self._turn:
                while True:
                    try:
                        return await self._cell(code, language, labels, limits, on_output)
                    except ToolError:
                        # The session ended just before the cell, which has not run: try again.
                        if self._session is None or self._session.state != "ended":
                            raise
        finally:
            self._num_cells -= 1

    async def clean_up(self) -> None:
        """Free the directory of a session that has ended."""
        async with self._turn:
            await self._drop_ended()

    async def sleep(self, why: str) -> None:
        """End the session for now; the next cell starts another and reports `why`."""
        async with self._turn:
            await self._lose(why)

    async def close(self) -> None:
        """End the session permanently, even while a cell runs. Idempotent."""
        self._is_over = True
        if self._session is not None:
            await self._session.close()
        async with self._turn:
            await self._drop()

    # --- a cell -----------------------------------------------------------------------------------

    async def _cell(
        self,
        code: str,
        language: Language,
        labels: frozenset[str],
        limits: SandboxLimits | None,
        on_output: OnOutput | None,
    ) -> ExecutionResult:
        wall_s = None if limits is None else limits.wall_s
        session, files = await self._ready_session(limits)
        try:
            async with AsyncExitStack() as stack:
                if self._workspace is not None:
                    directory = await stack.enter_async_context(scratch())
                    checked_out = await self._workspace.checkout(self._identity, directory)
                    self._labels |= labels | checked_out.labels
                    await _blocking(lambda: copy_changed(directory, files))
                result = await session.execute(
                    code, language=language, timeout_s=wall_s, on_output=on_output
                )
                changed = result.files.written or result.files.removed
                if self._workspace is not None and changed:
                    await _blocking(lambda: copy_changed(files, directory))
                    await self._workspace.commit(self._identity, directory, self._labels)
        finally:
            if session.state == "new":  # no cell ran, so no idle timer would ever end it
                await self._drop()
        notice = "; ".join(filter(None, (self._lost, result.notice))) or None
        self._lost = None
        return replace(result, labels=self._labels, notice=notice)

    async def _ready_session(self, limits: SandboxLimits | None) -> tuple[Session, Path]:
        """Return the session, in which no cell runs, and its directory."""
        if self._session is not None:
            await self._session.wait_idle()
        await self._drop_ended()
        if self._session is None or self._files is None:
            await finish_shielded(self._begin(limits))
        if self._is_over or self._session is None or self._files is None:
            raise SyscallCancelled(f"session {self._name!r} was ended")
        return self._session, Path(self._files.name)

    async def _begin(self, limits: SandboxLimits | None) -> None:
        if self._is_over:
            return
        self._files = await asyncio.to_thread(empty_directory)
        try:
            self._session = await self._sandbox.open_session(
                self._identity, files=Path(self._files.name), limits=limits
            )
        except BaseException:
            await self._drop()
            raise

    async def _drop_ended(self) -> None:
        if self._session is not None and self._session.state == "ended":
            await self._lose(self._session.why_ended)

    async def _lose(self, why: str | None) -> None:
        if self._session is not None:
            self._lost = (
                f"a new session: the one before has ended ({why}), and its variables are lost"
            )
            await self._drop()

    async def _drop(self) -> None:
        await finish_shielded(self._dropped())

    async def _dropped(self) -> None:
        session, self._session = self._session, None
        files, self._files = self._files, None
        if session is not None:
            await session.close()
        if files is not None:
            await asyncio.to_thread(files.cleanup)


async def _blocking(work: Callable[[], T]) -> T:
    return await finish_shielded(asyncio.to_thread(work))
