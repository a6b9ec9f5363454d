"""The contract of a driver, which runs the tasks with the agents of one framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from aios_core.cores.embedding.hashing import hashed
from compat_bench.backends import KernelSource, Source
from compat_bench.code_execution import Execute, execute_tool
from compat_bench.tasks import Backing, Member, Outcome, SeenCall, Task, ToolStub

T = TypeVar("T")

Find = Callable[[str], Awaitable[str]]  # a query -> the nearest document

#: Of arguments, by their JSON type.
TYPES: Final[dict[str, type]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
}


class Driver(Protocol):
    """Builds agents of one framework and lets them work.

    Natively an agent is what the framework's own pages show, with the OpenAI class
    that it brings, pointed at the endpoint, and the framework's own memory, vector
    store and code executor. On the kernel the same code runs with the adapter's
    classes in their places.
    """

    name: str
    kinds: frozenset[str]  # of tasks that it can be given; the others are reported as not offered

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        """Let a new agent do a task.

        Raises:
            CannotRun: the task needs what is not here; it is reported as skipped.
        """

    async def say(self, source: Source, agent: str) -> None:
        """One call of the model without tools, as small as the framework makes it."""


@runtime_checkable
class ModelFreeDriver(Protocol):
    """A driver that can time its framework without a model."""

    async def call_without_model(self) -> None:
        """The call of `say`, with a model in this process that answers at once."""


class CannotRun(Exception):
    """A task needs something that is not here; the message names it."""


def kept(source: Source, driver: str, make: Callable[[Source], T]) -> T:
    """Return what a driver makes once for a source, such as its client."""
    if driver not in source.kept:
        source.kept[driver] = make(source)
    made: T = source.kept[driver]
    return made


def vectors(texts: list[str]) -> list[list[float]]:
    """Embed texts like the kernel's embedder, for vector stores without a kernel."""
    return [hashed(text) for text in texts]


class Recorder:
    """The tools of one task, and the calls that were made of them.

    Args:
        task: the task with these tools.
        outcome: records the calls.
        execute: runs the code of a code tool.
        find: searches the documents of the task.
    """

    def __init__(
        self,
        task: Task,
        outcome: Outcome,
        execute: Execute | None = None,
        find: Find | None = None,
    ) -> None:
        own = (*task.tools, *(tool for member in task.members for tool in _all_of(member)))
        self._stubs = {stub.name: stub for stub in own}
        self._task = task
        self._outcome = outcome
        self._execute = execute
        self._find = find

    def stubs(self) -> list[ToolStub]:
        """The tools of the first agent."""
        return list(self._task.tools)

    def note(self, name: str, arguments: dict[str, Any]) -> None:
        """Write a call down."""
        self._outcome.calls.append(SeenCall(name, arguments))

    def run(self, name: str, arguments: dict[str, Any]) -> str:
        """Run a tool with predetermined results, and record the call."""
        self.note(name, arguments)
        return self._stubs[name].run(arguments)

    async def arun(self, name: str, arguments: dict[str, Any]) -> str:
        """Run a tool of any backing, and write the call down."""
        backing = self._stubs[name].backing
        if backing is Backing.CODE and self._execute:
            self.note(name, arguments)
            return await self._execute(
                str(arguments.get("language", "")), str(arguments.get("code", ""))
            )
        if backing is Backing.DOCUMENTS and self._find:
            self.note(name, arguments)
            return await self._find(" ".join(map(str, arguments.values())))
        return self.run(name, arguments)


def _all_of(member: Member) -> tuple[ToolStub, ...]:
    return (member.handover, *member.tools)


async def offered_code(
    stack: AsyncExitStack,
    source: KernelSource,
    recorder: Recorder,
    agent: str,
    kernel_tools: Callable[..., Awaitable[Sequence[T]]],
) -> dict[str, T]:
    """Tools that run code in the kernel's sandbox, by name, in the places of a task's stubs.

    They are offered to an agent that lives as long as the stack. `kernel_tools` is an adapter's
    `akernel_tools`.
    """
    made: dict[str, T] = {}
    for stub in recorder.stubs():
        if stub.backing is Backing.CODE:
            runner = await stack.enter_async_context(await source.kernel.aspawn(f"{agent}, code"))
            note = partial(recorder.note, stub.name)
            await runner.tools.aoffer(execute_tool(stub.name, stub.description, note))
            (made[stub.name],) = await kernel_tools(stub.name, agent=runner)
    return made
