"""Run a framework store's operations as an agent's memory syscalls, from threads or event loops.

A store's logic is written once, as a program: a generator that yields the syscalls
it needs (`StoreOp`) and is sent their answers. `AgentStore.run` performs them one by
one on a thread, `AgentStore.arun` on an event loop.

    def fetch(key: str) -> StoreProgram[str]:
        value = yield StoreOp.kv("settings", "get", key)
        return value or ""

    store.run(fetch("color"))
    await store.arun(fetch("color"))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar, cast

from aios_adapters.agent_directory import AgentDirectory
from aios_adapters.callers import AgentSettings, Caller, CallerKind
from aios_adapters.kernels import adefault_kernel
from aios_core.kernel import Agent, Kernel
from aios_core.kernel.default import default_kernel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreOp:
    """One syscall of the owner: a method of one of its handles, by its synchronous name."""

    handle: Callable[[Agent], Any]
    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def kv(cls, namespace: str, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Return a call of a method of `agent.memory.kv(namespace)`."""
        return cls(lambda agent: agent.memory.kv(namespace), method, arguments, options)

    @classmethod
    def thread(cls, name: str, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Return a call of a method of `agent.memory.thread(name)`."""
        return cls(lambda agent: agent.memory.thread(name), method, arguments, options)

    @classmethod
    def memory(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Return a call of a method of `agent.memory`."""
        return cls(lambda agent: agent.memory, method, arguments, options)

    @classmethod
    def collections(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Return a call of a method of `agent.collections`."""
        return cls(lambda agent: agent.collections, method, arguments, options)

    @classmethod
    def llm(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Return a call of a method of `agent.llm`, such as "embed"."""
        return cls(lambda agent: agent.llm, method, arguments, options)

    def perform(self, agent: Agent, prefix: str = "") -> Any:
        """Call the method for an agent. With the prefix "a": call its async form."""
        return getattr(self.handle(agent), prefix + self.method)(*self.arguments, **self.options)


StoreProgram = Generator[StoreOp, Any, T]

_directory: Final = AgentDirectory()


@dataclass(frozen=True, slots=True)
class User:
    """The caller that uses a store, with the directory in which its agent is."""

    directory: AgentDirectory
    caller: Caller
    settings: AgentSettings

    @classmethod
    def known(
        cls, directory: AgentDirectory, caller: Caller, settings: AgentSettings
    ) -> Self | None:
        """Return the user; None for a task or thread that has no agent yet."""
        is_anybody = caller.kind in (CallerKind.TASK, CallerKind.THREAD)
        if is_anybody and not directory.knows(caller):
            return None
        return cls(directory, caller, settings)


class AgentStore:
    """The memory and collections of one agent, as a framework's store uses them.

    The user of the store gets the labels of the data it reads; data it writes carries its labels.

    Args:
        agent: an agent of the kernel, or a name: the agent of that name is spawned at first
            use, and its data is kept for the next agent of that name.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned.
        user: finds the user of the store in the calling code; returns None if it is unknown.
    """

    def __init__(
        self,
        agent: str | Agent,
        kernel: Kernel | None = None,
        group: str | None = None,
        user: Callable[[], User | None] = lambda: None,
    ) -> None:
        self._agent = agent
        self._kernel = kernel
        self._settings = AgentSettings(group)
        self._user = user

    def __repr__(self) -> str:
        return f"<AgentStore of {self._agent!r}>"

    def run(self, program: StoreProgram[T], user: User | None = None) -> T:
        """Run a program on this thread and return its result.

        Args:
            program: yields the operations, and receives their answers.
            user: the user of the store; None to find it here.
        """
        with ExitStack() as held:
            if isinstance(self._agent, Agent):
                agent, kernel = self._agent, cast("Kernel", self._agent._kernel)  # noqa: SLF001 - ours
            else:
                kernel = self._kernel or default_kernel()
                using = _directory.use(kernel, self._caller(), self._settings)
                agent = held.enter_context(using)
            if (user := user or self._user()) is not None:
                using = user.directory.use(kernel, user.caller, user.settings)
                agent = agent.acting_for(held.enter_context(using))
            return _run(program, agent)

    async def arun(self, program: StoreProgram[T], user: User | None = None) -> T:
        """Run a program without blocking the event loop (async form of `run`)."""
        async with AsyncExitStack() as held:
            if isinstance(self._agent, Agent):
                agent, kernel = self._agent, cast("Kernel", self._agent._kernel)  # noqa: SLF001 - ours
            else:
                kernel = self._kernel or await adefault_kernel()
                using = _directory.ause(kernel, self._caller(), self._settings)
                agent = await held.enter_async_context(using)
            if (user := user or self._user()) is not None:
                using = user.directory.ause(kernel, user.caller, user.settings)
                agent = agent.acting_for(await held.enter_async_context(using))
            return await _arun(program, agent)

    def _caller(self) -> Caller:
        return Caller.named(str(self._agent), self._settings.group)


def _run(program: StoreProgram[T], agent: Agent) -> T:
    try:
        op = next(program)
        while True:
            try:
                answer = op.perform(agent)
            except Exception as exc:  # noqa: BLE001 - the program may handle it
                op = program.throw(exc)
            else:
                op = program.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


async def _arun(program: StoreProgram[T], agent: Agent) -> T:
    try:
        op = next(program)
        while True:
            try:
                answer = await op.perform(agent, "a")
            except Exception as exc:  # noqa: BLE001 - the program may handle it
                op = program.throw(exc)
            else:
                op = program.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value
