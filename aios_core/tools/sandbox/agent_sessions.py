"""The sessions of all agents, by agent and name.

A session belongs to one agent: it is found by the agent's identity, works on the agent's
files and ends with the agent, so that a later agent of the same identity finds none of its
variables. The sandbox bounds the number and the lifetime of sessions; when an agent has as
many as it may, a new one replaces its least recently used. Used on the kernel's loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aios_core.errors import KernelClosed, SyscallCancelled
from aios_core.tools.sandbox.agent_session import AgentSession
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox import Sandbox
from aios_core.tools.sandbox.workspace import Workspace

log = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 1_000  # names; beyond that, the oldest without a process are dropped


class AgentSessions:
    """The sessions of a kernel's agents.

    Args:
        sandbox: runs their processes.
        workspace: the files of agents; None if sessions work without files.
        is_alive: returns whether an identity belongs to a live agent.
    """

    def __init__(
        self, sandbox: Sandbox, workspace: Workspace | None, *, is_alive: Callable[[str], bool]
    ) -> None:
        self._sandbox = sandbox
        self._workspace = workspace
        self._is_alive = is_alive
        self._sessions: dict[tuple[str, str], AgentSession] = {}  # least recently used first
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AgentSessions: {len(self._sessions)}>"

    async def execute(
        self,
        identity: str,
        name: str,
        code: str,
        *,
        language: Language = "python",
        labels: frozenset[str] = frozenset(),
        limits: SandboxLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell in a session of an agent, as `CodeRunner.run_in_session` does.

        Raises what `Session.execute`, `Sandbox.open_session` and the workspace raise, and
        `SyscallCancelled` if the agent has exited, or the session is ended meanwhile.
        """
        if self._is_closed:
            raise KernelClosed("the kernel is closed")
        if not self._is_alive(identity):
            raise SyscallCancelled(f"agent {identity!r} has exited")
        session = self._sessions.pop((identity, name), None) or self._new(identity, name)
        self._sessions[identity, name] = session
        if session.is_asleep:
            await self._make_room(identity)
        return await session.execute(
            code, language=language, labels=labels, limits=limits, on_output=on_output
        )

    async def end(self, identity: str, name: str) -> bool:
        """End a session, even while a cell runs. Returns whether there was one of that name."""
        session = self._sessions.pop((identity, name), None)
        if session is None:
            return False
        await asyncio.shield(self._later(session.close()))
        return True

    def forget(self, identity: str) -> None:
        """End the sessions of an exited agent."""
        for key in [key for key in self._sessions if key[0] == identity]:
            self._later(self._sessions.pop(key).close())

    async def close(self) -> None:
        """End all sessions. Idempotent."""
        self._is_closed = True
        for identity in {identity for identity, _ in self._sessions}:
            self.forget(identity)
        while self._ending:
            await asyncio.wait(self._ending)

    # --- inside -----------------------------------------------------------------------------------

    async def _make_room(self, identity: str) -> None:
        """End an idle session of an agent that has as many as it may."""
        own = [session for (who, _), session in self._sessions.items() if who == identity]
        awake = [session for session in own if not session.is_asleep]
        idle = [session for session in awake if not session.is_busy]
        if idle and len(awake) >= self._sandbox.max_sessions_per_agent:
            await asyncio.shield(self._later(idle[0].sleep("replaced by another of its agent")))

    def _new(self, identity: str, name: str) -> AgentSession:
        asleep = [key for key, session in self._sessions.items() if session.is_asleep]
        for key in asleep:
            if self._sessions[key].needs_clean_up:
                self._later(self._sessions[key].clean_up())
        for key in asleep[: max(0, len(self._sessions) - _MAX_REMEMBERED + 1)]:
            del self._sessions[key]
        return AgentSession(identity, name, self._sandbox, self._workspace)

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="sandbox: end of an agent's session")
        self._ending.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a session of an agent could not be ended: %s", exc)
