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

from collections.abc import Generator, Mapping
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
    """One syscall of the owner: of a namespace or a thread of its memory, or of its LLM."""

    place: str  # the name of the namespace or thread
    method: str  # in its synchronous form
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "kv"  # or "thread", or "llm", which has no place

    @classmethod
    def kv(cls, namespace: str, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.memory.kv(namespace)`."""
        return cls(namespace, method, arguments, options)

    @classmethod
    def thread(cls, name: str, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.memory.thread(name)`."""
        return cls(name, method, arguments, options, "thread")

    @classmethod
    def llm(cls, method: str, *arguments: Any, **options: Any) -> Ask:
        """Of `agent.llm`, such as "embed"."""
        return cls("", method, arguments, options, "llm")

    def of(self, agent: Agent, prefix: str = "") -> Any:
        """Make it. With the prefix "a": something to await."""
        place: Any = agent.llm
        if self.kind != "llm":
            place = getattr(agent.memory, self.kind)(self.place)
        return getattr(place, prefix + self.method)(*self.arguments, **self.options)


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
