"""What a framework has to bring to take part: a driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from compat_bench.sources import Source
from compat_bench.tasks import Outcome, SeenCall, Task, ToolStub

T = TypeVar("T")


class Driver(Protocol):
    """Builds agents of one framework and lets them work.

    Natively an agent is what the framework's own pages show, with the OpenAI class
    that it brings, pointed at the endpoint. On the kernel the same code runs with
    the adapter's classes in the places of its LLM and memory.
    """

    name: str
    kinds: frozenset[str]  # of tasks that it can be given

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        """Let a new agent do a task."""

    async def say(self, source: Source, agent: str) -> None:
        """One call of the model without tools, as small as the framework makes it."""


def kept(source: Source, driver: str, make: Callable[[Source], T]) -> T:
    """What a driver makes once for a source, such as its client, and uses for all its agents."""
    if driver not in source.kept:
        source.kept[driver] = make(source)
    made: T = source.kept[driver]
    return made


class Recorder:
    """The tools of one task, and the calls that were made of them."""

    def __init__(self, task: Task, outcome: Outcome) -> None:
        self._stubs = {stub.name: stub for stub in task.tools}
        self._outcome = outcome

    def stubs(self) -> list[ToolStub]:
        return list(self._stubs.values())

    def run(self, name: str, arguments: dict[str, Any]) -> str:
        """Run a tool, and write the call down."""
        self._outcome.calls.append(SeenCall(name, arguments))
        return self._stubs[name].run(arguments)
