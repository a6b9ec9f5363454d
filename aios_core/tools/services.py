"""What tools may need of siblings; the kernel passes the implementations in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aios_core.manager import Port
from aios_core.process import AgentProcess
from aios_core.tools.sandbox import ExecutionResult, Language
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
        """Smallest first. May only grow while a call waits."""


#: Which ranking to use with that many waiting calls, slots, and groups at work.
SelectRanking = Callable[[int, int, int], Ranking]
#: A flow of that name and weight.
MakeFlow = Callable[[str, float], Flow]


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
    ) -> ExecutionResult:
        """Run code on an agent's files. Cancelling the await kills it.

        Raises `SandboxUnavailable` where nothing can confine it.
        """
