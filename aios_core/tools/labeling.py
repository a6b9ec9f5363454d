"""Label the code that a tool runs with the labels of its agent, even if the tool passes none."""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.process import AgentProcess
from aios_core.tools.protocols import CodeRunner
from aios_core.tools.sandbox import ExecutionResult, Language, OnOutput, SandboxLimits


@dataclass(frozen=True, slots=True)
class LabelingRunner:
    """The code runner of one call: adds the labels of the calling agent to the given ones."""

    _runner: CodeRunner
    _process: AgentProcess

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
        """Run code once, as `CodeRunner.run_for` does."""
        return await self._runner.run_for(
            identity,
            language,
            code,
            labels=labels | self._process.labels,
            limits=limits,
            on_output=on_output,
        )

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
        """Run a cell of a session, as `CodeRunner.run_in_session` does."""
        return await self._runner.run_in_session(
            identity,
            name,
            code,
            language=language,
            labels=labels | self._process.labels,
            limits=limits,
            on_output=on_output,
        )

    async def end_session(self, identity: str, name: str) -> bool:
        """End a session. Returns whether there was one of that name."""
        return await self._runner.end_session(identity, name)
