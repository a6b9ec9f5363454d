"""Protocols of what the tool manager needs; the kernel passes the implementations in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict

from aios_core.manager import Port
from aios_core.process import AgentProcess
from aios_core.tools.sandbox import ExecutionResult, Language, OnOutput
from aios_core.tools.sandbox import SandboxLimits as CodeLimits

Ports = Callable[[AgentProcess], Port]


class CodeOptions(TypedDict, total=False):
    """The keyword arguments of `CodeRunner.run_for`."""

    labels: frozenset[str]
    limits: CodeLimits | None
    on_output: OnOutput | None


class CellOptions(CodeOptions, total=False):
    """The keyword arguments of `CodeRunner.run_in_session`."""

    language: Language


class CodeRunner(Protocol):
    """Runs untrusted code confined, such as the sandbox in `aios_core.tools.sandbox`."""

    async def run_for(
        self,
        identity: str,
        language: Language,
        code: str,
        *,
        labels: frozenset[str] = frozenset(),
        limits: CodeLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run code on an agent's files. Cancelling the await kills the code.

        Args:
            identity: of the agent.
            language: "python" or "shell".
            code: the program.
            labels: the sources of the code; the files that it writes carry them.
            limits: of this run; None for the configured ones.
            on_output: called on this loop with output as it arrives.

        Raises:
            SandboxUnavailable: nothing on this machine can confine the code.
        """

    async def run_in_session(
        self,
        identity: str,
        name: str,
        code: str,
        *,
        language: Language = "python",
        labels: frozenset[str] = frozenset(),
        limits: CodeLimits | None = None,
        on_output: OnOutput | None = None,
    ) -> ExecutionResult:
        """Run a cell in a named session of an agent; the first cell starts the session.

        The cell has the variables of the cells before it, and the agent's files in their newest
        versions; files that it changes get new versions. If the session had ended (idle, out of
        memory, replaced by another ...), the cell starts a new one, and `notice` of the result
        reports that. Cancelling the await interrupts the cell, as with Ctrl-C, and ends the
        session if the cell does not stop.

        Args:
            identity: the agent; its sessions end when it exits.
            name: of the session, among those of the agent.
            code: the cell.
            language: "shell" shares the files, not the variables.
            labels: the sources of the code and of the request for it.
            limits: those of the first cell hold for the session; `wall_s` for each cell.
            on_output: called on this loop with output as it arrives.

        Raises:
            SandboxUnavailable: nothing on this machine can confine the code.
            QuotaExceeded: cells run in all sessions that the agent may have, or it has too
                many files.
            RetryLater: cells run in all sessions that all agents together may have.
            Conflict: a file that the cell changed was changed in the storage meanwhile; nothing
                was stored.
        """

    async def end_session(self, identity: str, name: str) -> bool:
        """End a session, even while a cell runs. Returns whether there was one of that name."""
