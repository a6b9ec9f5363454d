"""What tools may need of siblings; the kernel passes the implementations in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict

from aios_core.errors import KernelError
from aios_core.manager import Port
from aios_core.process import AgentProcess
from aios_core.tools.sandbox import ExecutionResult, Language, OnOutput
from aios_core.tools.sandbox import Limits as CodeLimits

Ports = Callable[[AgentProcess], Port]


class Flow(Protocol):
    """The service that one agent, or one group, has received of the tools."""

    @property
    def virtual_time(self) -> float:
        """Service over weight, caught up when it was idle."""

    @property
    def service(self) -> float:
        """Milliseconds of running tools since it began."""

    def enter(self, floor: float) -> None:
        """One more call; `floor` is where service stands among its siblings."""

    def leave(self) -> None:
        """One call less."""

    def charge(self, cost: float) -> None:
        """Account for service; a negative cost becomes credit."""


class Ranking(Protocol):
    """The order of waiting calls: a scheduling policy, as far as it concerns tools."""

    @property
    def max_wait_s(self) -> float | None:
        """A call that waited longer goes before all that came after it; None: no bound."""

    def rank(self, call: Any) -> tuple[float, ...]:
        """Smallest first. May only grow while a call waits. Never raises."""

    def take_unranked(self) -> Sequence[tuple[Any, KernelError]]:
        """The waiting calls that could not be ranked since the last time, and why."""


#: Which ranking to use with that many waiting calls, slots, and groups at work.
SelectRanking = Callable[[int, int, int], Ranking]
#: A flow of that name and weight.
MakeFlow = Callable[[str, float], Flow]


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
