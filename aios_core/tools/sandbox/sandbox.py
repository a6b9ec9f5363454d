"""Run untrusted code confined, or not at all.

A `Sandbox` selects the best isolation backend of the machine (`detection`) at its first use. It
works on an event loop in its own thread, so the kernel's loop and the threads of tools only
wait for it, and all of them can use it.

Promises: code that cannot be confined is refused (`SandboxUnavailable`), never run; a cancelled
run is killed with all its processes; after `close` none of its processes is alive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from aios_core.config import SandboxConfig
from aios_core.errors import KernelClosed, QuotaExceeded, RetryLater
from aios_core.tools.sandbox import runner
from aios_core.tools.sandbox.backend import SandboxBackend
from aios_core.tools.sandbox.cell_runner import CellRunner, SessionLifetime
from aios_core.tools.sandbox.detection import BACKENDS, MakeBackend, select_backend
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.packages import find_packages
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox_loop import SandboxLoop
from aios_core.tools.sandbox.session import Session, on_this_loop
from aios_core.tools.sandbox.workspace import Workspace, scratch

_NUM_THREADS: Final = 4  # for starting, copying files and reading /proc


class Sandbox:
    """Runs programs and sessions confined. Any thread may call its methods.

    `_lock` guards `_sessions`.
    """

    def __init__(
        self,
        config: SandboxConfig | None = None,
        *,
        workspace: Workspace | None = None,
        backends: Mapping[str, MakeBackend] = BACKENDS,
    ) -> None:
        """Find the configured packages, without starting anything.

        Args:
            config: the section `tools.sandbox` of the configuration; None for the defaults.
            workspace: the files of agents, for `run_for`; None to run without files.
            backends: the isolation backends to select from.

        Raises:
            ConfigError: one of the packages is not installed in this environment.
        """
        self._workspace = workspace
        self._config = config = config or SandboxConfig()
        self._backends = backends
        self._packages = find_packages(config.packages)
        self.limits = limits_of(config)
        self.max_sessions_per_agent = config.max_sessions_per_agent
        self._lifetime = SessionLifetime(config.max_session_s, config.session_idle_s)
        self._backend: SandboxBackend | None = None
        self._choosing = asyncio.Lock()
        self._places = asyncio.Semaphore(config.max_running)
        self._thread = SandboxLoop("aios-sandbox")
        # They live until `close`, which backends rely on: a process with a parent-death signal
        # dies with the thread that started it, not only with the process.
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "aios-sandbox")
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Sandbox {self._backend or self._config.backend}>"

    # --- one run ----------------------------------------------------------------------------------

    async def run(
        self,
        language: Language,
        code: str,
        *,
        files: Path | None = None,
        stdin: bytes = b"",
        limits: SandboxLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run code to its end. Cancelling the await kills all its processes.

        Args:
            language: "python" or "shell".
            code: the program.
            files: a directory that is copied into the working directory of the code; when the
                code has ended in any way, its changes are copied back.
            stdin: the standard input of the code.
            limits: of this run; None for the configured ones.
            on_output: called on this loop with output as it arrives.

        Raises:
            SandboxUnavailable: nothing on this machine can confine the code.
            InvalidRequest: the code is not valid text, or the language is unknown.
            QuotaExceeded: the files are more, or larger, than the limits allow.
        """
        listen = on_this_loop(on_output)
        running = self._run(
            language, code, files=files, stdin=stdin, limits=limits, on_output=listen
        )
        return await asyncio.wrap_future(self._thread.submit(running))

    def run_blocking(
        self,
        language: Language,
        code: str,
        *,
        files: Path | None = None,
        stdin: bytes = b"",
        limits: SandboxLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run code on the calling thread (blocking form of `run`).

        `on_output` is called on another thread.
        """
        running = self._run(
            language, code, files=files, stdin=stdin, limits=limits, on_output=on_output
        )
        return self._thread.wait_for(running)

    async def run_for(
        self,
        identity: str,
        language: Language,
        code: str,
        *,
        labels: frozenset[str] = frozenset(),
        limits: SandboxLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run code on an agent's files; files that it changes get new versions.

        The new versions carry `labels` and the labels of the files that the code could read; the
        result carries the latter. Without a workspace, the code runs without files. The
        workspace is used on this loop.

        Raises what `run` and the workspace raise.
        """
        if self._workspace is None:
            return await self.run(language, code, limits=limits, on_output=on_output)
        async with scratch(self._threads) as directory:
            checked_out = await self._workspace.checkout(identity, directory)
            result = await self.run(
                language, code, files=directory, limits=limits, on_output=on_output
            )
            if result.files.written or result.files.removed:
                await self._workspace.commit(identity, directory, labels)
            return replace(result, labels=checked_out.labels)

    async def _run(
        self,
        language: Language,
        code: str,
        *,
        files: Path | None,
        stdin: bytes,
        limits: SandboxLimits | None,
        on_output: OnOutput | None,
    ) -> ExecutionResult:
        backend = await self._chosen()
        program = runner.program_for(backend, language, code, limits or self.limits, self._packages)
        async with self._places:
            return await runner.run(
                backend, program, self._threads, files=files, stdin=stdin, on_output=on_output
            )

    # --- sessions ---------------------------------------------------------------------------------

    async def open_session(
        self, owner: str, *, files: Path | None = None, limits: SandboxLimits | None = None
    ) -> Session:
        """Open a session for an agent; its process starts at the first cell.

        Args:
            owner: the identity of the agent.
            files: a directory that is synchronized with the session's before and after each cell.
            limits: of the session; None for the configured ones.

        Raises:
            SandboxUnavailable: nothing on this machine can confine the code.
            QuotaExceeded: the agent has as many sessions as it may.
            RetryLater: all agents together have as many sessions as they may.
        """
        return await asyncio.wrap_future(self._thread.submit(self._open(owner, files, limits)))

    def open_session_blocking(
        self, owner: str, *, files: Path | None = None, limits: SandboxLimits | None = None
    ) -> Session:
        """Open a session from a thread (blocking form of `open_session`)."""
        return self._thread.wait_for(self._open(owner, files, limits))

    def sessions(self, owner: str) -> list[Session]:
        """Return the sessions of an agent that have not ended."""
        with self._lock:
            self._sessions = [one for one in self._sessions if one.state != "ended"]
            return [one for one in self._sessions if one.owner == owner]

    async def forget(self, owner: str) -> None:
        """Close the sessions of an agent."""
        for session in self.sessions(owner):
            await session.close()

    async def _open(self, owner: str, files: Path | None, limits: SandboxLimits | None) -> Session:
        backend = await self._chosen()
        cells = CellRunner(
            backend,
            limits or self.limits,
            self._lifetime,
            self._threads,
            files,
            packages=self._packages,
        )
        session = Session(owner, cells, self._thread, self._adopt)
        self._adopt(session)
        return session

    def _adopt(self, session: Session) -> None:
        """Count a session as one of its owner, once.

        Raises:
            QuotaExceeded: its owner has as many as it may.
            RetryLater: all agents together have as many as they may.
        """
        config = self._config
        with self._lock:
            if self._is_closed:
                raise KernelClosed("the sandbox is closed")
            others = [one for one in self._sessions if one is not session and one.state != "ended"]
            num_own = sum(one.owner == session.owner for one in others)
            if num_own >= (most := self.max_sessions_per_agent):
                hint = "close one, or let one end by being idle"
                raise QuotaExceeded(
                    session.owner, "sessions", limit=most, used=num_own, requested=1, hint=hint
                )
            if len(others) >= config.max_sessions:
                reason = f"tools.sandbox.max_sessions: all {len(others)} sessions are in use"
                raise RetryLater(reason, config.session_idle_s)
            self._sessions = [*others, session]

    # --- start and end ----------------------------------------------------------------------------

    async def examine(self) -> SandboxBackend:
        """Return the isolation backend that code will run in. Raises `SandboxUnavailable`."""
        return await asyncio.wrap_future(self._thread.submit(self._chosen()))

    async def close(self) -> None:
        """Kill all programs and sessions. Idempotent."""
        loop = asyncio.get_running_loop()
        closer = ThreadPoolExecutor(1, "aios-sandbox-close")
        try:
            await loop.run_in_executor(closer, self.close_blocking)
        finally:
            closer.shutdown(wait=False)  # if cancelled, the close continues on this thread

    def close_blocking(self) -> None:
        """Kill all programs and sessions (blocking form of `close`). Idempotent."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            sessions, self._sessions = self._sessions, []
        if was_closed:
            return
        with suppress(KernelClosed):
            for session in sessions:
                session.close_blocking()
        self._thread.close()
        self._threads.shutdown()

    async def _chosen(self) -> SandboxBackend:
        async with self._choosing:
            if self._backend is None:
                loop = asyncio.get_running_loop()
                self._backend = await loop.run_in_executor(
                    self._threads, select_backend, self._config, self._backends
                )
            return self._backend


def limits_of(config: SandboxConfig) -> SandboxLimits:
    """Return the limits in the configuration."""
    return SandboxLimits(
        wall_s=config.wall_s,
        cpu_s=config.cpu_s,
        memory_bytes=config.memory_bytes,
        max_processes=config.max_processes,
        max_open_files=config.max_open_files,
        disk_bytes=config.disk_bytes,
        max_files=config.max_files,
        output_bytes=config.output_bytes,
    )
