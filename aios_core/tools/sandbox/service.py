"""The sandbox as tools have it, which run on threads with loops of their own."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aios_core.tools.sandbox.agent_sessions import AgentSessions
from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.result import ExecutionResult, OnOutput
from aios_core.tools.sandbox.runner import Language
from aios_core.tools.sandbox.sandbox import Sandbox
from aios_core.tools.sandbox.session import on_this_loop

T = TypeVar("T")


class WayThere(Protocol):
    """The way onto the loop on which agents' files and sessions live."""

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine there, from any loop; cancelling the await cancels it."""


@dataclass(frozen=True, slots=True)
class CodeService:
    """Implements `tools.protocols.CodeRunner`. Output goes straight to the tool's loop."""

    way: WayThere
    sandbox: Sandbox
    sessions: AgentSessions

    async def run_for(
        self,
        identity: str,
        language: Language,
        code: str,
        *,
        labels: frozenset[str] = frozenset(),
        limits: Limits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """See `Sandbox.run_for`."""
        running = self.sandbox.run_for(
            identity,
            language,
            code,
            labels=labels,
            limits=limits,
            on_output=on_this_loop(on_output),
        )
        return await self.way.arun(running)

    async def run_in_session(
        self,
        identity: str,
        name: str,
        code: str,
        *,
        language: Language = "python",
        labels: frozenset[str] = frozenset(),
        limits: Limits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """See `AgentSessions.execute`."""
        running = self.sessions.execute(
            identity,
            name,
            code,
            language=language,
            labels=labels,
            limits=limits,
            on_output=on_this_loop(on_output),
        )
        return await self.way.arun(running)

    async def end_session(self, identity: str, name: str) -> bool:
        """See `AgentSessions.end`."""
        return await self.way.arun(self.sessions.end(identity, name))
