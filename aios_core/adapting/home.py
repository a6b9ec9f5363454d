"""What a framework's store keeps belongs to an agent: its home, reached with or without a loop.

A store's logic is written once, as a script: a generator that yields the memory
syscalls that it needs (`Ask`) and is sent their answers. `Home.run` makes them one by
one on a thread, `Home.arun` on an event loop.

    def fetch(key: str) -> Script[str]:
        value = yield Ask.kv("settings", "get", key)
        return value or ""

    home.run(fetch("color"))
    await home.arun(fetch("color"))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aios_core.adapting.callers import AgentSettings, Caller
from aios_core.adapting.directory import AgentDirectory
from aios_core.adapting.kernels import adefault_kernel
from aios_core.agent import Agent
from aios_core.embedded import default_kernel
from aios_core.kernel import Kernel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One syscall of the owner: a method of one of its handles, in its synchronous form."""

    handle: Callable[[Agent], Any]
    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def kv(cls, namespace: str, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.memory.kv(namespace)`."""
        return cls(lambda agent: agent.memory.kv(namespace), method, arguments, options)

    @classmethod
    def thread(cls, name: str, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.memory.thread(name)`."""
        return cls(lambda agent: agent.memory.thread(name), method, arguments, options)

    @classmethod
    def memory(cls, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.memory`."""
        return cls(lambda agent: agent.memory, method, arguments, options)

    @classmethod
    def collections(cls, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.collections`."""
        return cls(lambda agent: agent.collections, method, arguments, options)

    @classmethod
    def llm(cls, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.llm`, such as "embed"."""
        return cls(lambda agent: agent.llm, method, arguments, options)

    def of(self, agent: Agent, prefix: str = "") -> Any:
        """Make it. With the prefix "a": something to await."""
        return getattr(self.handle(agent), prefix + self.method)(*self.arguments, **self.options)


Script = Generator[Ask, Any, T]

_directory: Final = AgentDirectory()


class Home:
    """The memory of one agent, named or given, as a framework's store uses it.

    Args:
        agent: an agent of the kernel, or a name: the agent of that name is spawned at first
            use, and what it keeps is there for the next one of that name.
        kernel: None for the embedded kernel of this process.
        group: of an agent that is spawned.
    """

    def __init__(
        self, agent: str | Agent, kernel: Kernel | None = None, group: str | None = None
    ) -> None:
        self._agent = agent
        self._kernel = kernel
        self._settings = AgentSettings(group)

    def __repr__(self) -> str:
        return f"<Home of {self._agent!r}>"

    def run(self, script: Script[T]) -> T:
        """Carry out a script on this thread."""
        if isinstance(self._agent, Agent):
            return _run(script, self._agent)
        kernel = self._kernel or default_kernel()
        with _directory.use(kernel, self._caller(), self._settings) as agent:
            return _run(script, agent)

    async def arun(self, script: Script[T]) -> T:
        """Carry out a script on the running event loop."""
        if isinstance(self._agent, Agent):
            return await _arun(script, self._agent)
        kernel = self._kernel or await adefault_kernel()
        async with _directory.ause(kernel, self._caller(), self._settings) as agent:
            return await _arun(script, agent)

    def _caller(self) -> Caller:
        return Caller.named(str(self._agent), self._settings.group)


def _run(script: Script[T], agent: Agent) -> T:
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


async def _arun(script: Script[T], agent: Agent) -> T:
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
