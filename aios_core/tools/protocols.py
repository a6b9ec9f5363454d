"""What tools may need of siblings; the kernel passes the implementations in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict

from aios_core.manager import Port
from aios_core.process import AgentProcess
from aios_core.tools.sandbox import ExecutionResult, Language, OnOutput
from aios_core.tools.sandbox import Limits as CodeLimits

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
    """Runs code that nobody has read where it can do no harm. `aios_core.tools.sandbox` has one."""

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
        """Run code on an agent's files. Cancelling the await kills it.

        `on_output` is called on this loop with output as it comes. Raises
        `SandboxUnavailable` where nothing can confine the code.
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
        """Run a cell in an agent's session of that name, which the first cell begins.

        It finds the variables of the cells before it, and the agent's files as they are now;
        what it changes there becomes their newest versions. Where the session had ended (idle,
        out of memory, another took its place ...), the cell begins a new one, and `notice` says
        so. Cancelling the await interrupts the cell, as with Ctrl-C, and ends the session if
        that does not help.

        Args:
            identity: the agent; its sessions end when it exits.
            name: of the session, among the agent's.
            code: the cell.
            language: "shell" shares the files, not the variables.
            labels: where the code, and what it was written for, comes from.
            limits: those of the first cell are the session's; `wall_s` is each cell's own.
            on_output: called on this loop with output as it comes.

        Raises:
            SandboxUnavailable: nothing here can confine it.
            QuotaExceeded: cells run in as many sessions as the agent may have, or it has too
                many files.
            RetryLater: all agents together have as many sessions as they may.
            Conflict: a file that the cell changed was changed in the storage meanwhile; nothing
                was stored.
        """

    async def end_session(self, identity: str, name: str) -> bool:
        """End a session, whatever it does. Whether there was one of that name."""
