"""The code runner of tools: the sandbox, reached from the threads and loops of tools."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aios_core.tools.sandbox.agent_sessions import AgentSessions
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox import Sandbox
from aios_core.tools.sandbox.session import on_this_loop

T = TypeVar("T")


class LoopAccess(Protocol):
    """Runs coroutines on the kernel's loop, where agents' files and sessions are used."""

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on that loop, from any loop. Cancelling the await cancels it."""


@dataclass(frozen=True, slots=True)
class CodeService:
    """Runs code for tools. Implements `CodeRunner`; output goes directly to the tool's loop."""

    loop_access: LoopAccess
    sandbox: Sandbox
    sessions: AgentSessions

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
        """Run code on an agent's files, as `Sandbox.run_for` does."""
        running = self.sandbox.run_for(
            identity,
            language,
            code,
            labels=labels,
            limits=limits,
            on_output=on_this_loop(on_output),
        )
        return await self.loop_access.arun(running)

    async def run_in_session(
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
        """Run a cell in a session of an agent, as `AgentSessions.execute` does."""
        running = self.sessions.execute(
            identity,
            name,
            code,
            language=language,
            labels=labels,
            limits=limits,
            on_output=on_this_loop(on_output),
        )
        return await self.loop_access.arun(running)

    async def end_session(self, identity: str, name: str) -> bool:
        """End a session. Returns whether there was one of that name."""
        return await self.loop_access.arun(self.sessions.end(identity, name))
