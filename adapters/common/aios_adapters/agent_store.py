"""What a framework's store keeps belongs to an agent: its home, reached with or without a loop.

A store's logic is written once, as a script: a generator that yields the memory
syscalls that it needs (`StoreOp`) and is sent their answers. `AgentStore.run` makes them one by
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
    """One syscall of the owner: a method of one of its handles, in its synchronous form."""

    handle: Callable[[Agent], Any]
    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def kv(cls, namespace: str, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Of `agent.memory.kv(namespace)`."""
        return cls(lambda agent: agent.memory.kv(namespace), method, arguments, options)

    @classmethod
    def thread(cls, name: str, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Of `agent.memory.thread(name)`."""
        return cls(lambda agent: agent.memory.thread(name), method, arguments, options)

    @classmethod
    def memory(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Of `agent.memory`."""
        return cls(lambda agent: agent.memory, method, arguments, options)

    @classmethod
    def collections(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Of `agent.collections`."""
        return cls(lambda agent: agent.collections, method, arguments, options)

    @classmethod
    def llm(cls, method: str, *arguments: Any, **options: Any) -> StoreOp:
        """Of `agent.llm`, such as "embed"."""
        return cls(lambda agent: agent.llm, method, arguments, options)

    def of(self, agent: Agent, prefix: str = "") -> Any:
        """Make it. With the prefix "a": something to await."""
        return getattr(self.handle(agent), prefix + self.method)(*self.arguments, **self.options)


StoreProgram = Generator[StoreOp, Any, T]

_directory: Final = AgentDirectory()


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a store at the moment: the caller, as an adapter's directory knows it."""

    directory: AgentDirectory
    caller: Caller
    settings: AgentSettings

    @classmethod
    def known(
        cls, directory: AgentDirectory, caller: Caller, settings: AgentSettings
    ) -> Self | None:
        """The user, unless it is a task or a thread that has made no call of a model yet."""
        is_anybody = caller.kind in (CallerKind.TASK, CallerKind.THREAD)
        if is_anybody and not directory.knows(caller):
            return None
        return cls(directory, caller, settings)


class AgentStore:
    """The memory of one agent, named or given, as a framework's store uses it.

    Who uses it is marked by what it reads, and what it writes carries its labels.

    Args:
        agent: an agent of the kernel, or a name: the agent of that name is spawned at first
            use, and what it keeps is there for the next one of that name.
        kernel: None for the embedded kernel of this process.
        group: of an agent that is spawned.
        user: who uses the store where it is called; None where nobody knows.
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

    def run(self, script: StoreProgram[T], user: User | None = None) -> T:
        """Carry out a script on this thread, for a user who is known already or is found here."""
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
            return _run(script, agent)

    async def arun(self, script: StoreProgram[T], user: User | None = None) -> T:
        """Carry out a script on the running event loop, for a user as in `run`."""
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
            return await _arun(script, agent)

    def _caller(self) -> Caller:
        return Caller.named(str(self._agent), self._settings.group)


def _run(script: StoreProgram[T], agent: Agent) -> T:
    try:
        ask = next(script)
        while True:
            try:
                answer = ask.of(agent)
            except Exception as exc:  # noqa: BLE001 - the script's, which may handle it
                ask = script.throw(exc)
            else:
                ask = script.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


async def _arun(script: StoreProgram[T], agent: Agent) -> T:
    try:
        ask = next(script)
        while True:
            try:
                answer = await ask.of(agent, "a")
            except Exception as exc:  # noqa: BLE001 - the script's, which may handle it
                ask = script.throw(exc)
            else:
                ask = script.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value
