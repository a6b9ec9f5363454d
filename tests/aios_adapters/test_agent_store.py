"""A store of a framework has many users: a writer's labels pass to those who read the item."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from aios_adapters import (
    AgentDirectory,
    AgentSettings,
    AgentStore,
    Caller,
    StoreOp,
    StoreProgram,
    User,
    current_caller,
)
from aios_core import Agent, Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.tools import tool


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    config = KernelConfig.load(environ={}, state={"directory": ":memory:"}, tools={"plugins": ()})
    with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        yield kernel
        kernel.check()


def labels_of(agent: Agent) -> set[str]:
    return set(agent._process.labels)


def put(value: str) -> StoreProgram[None]:
    yield StoreOp.kv("n", "set", "k", value)


def get() -> StoreProgram[str]:
    value: str = yield StoreOp.kv("n", "get", "k")
    return value


class Desk:
    """A store, and its present user."""

    def __init__(self, kernel: Kernel, agent: str | Agent = "store") -> None:
        self.kernel = kernel
        self.directory = AgentDirectory()
        self.name = ""
        self.home = AgentStore(agent, kernel, user=self._user)

    def _user(self) -> User | None:
        caller = Caller.named(self.name)
        return User.known(self.directory, caller, AgentSettings()) if self.name else None

    def agent(self, name: str) -> Agent:
        with self.directory.use(self.kernel, Caller.named(name), AgentSettings()) as agent:
            return agent


def read_the_web(agent: Agent) -> None:
    @tool(read_only=True, trusted=False)
    def web() -> str:
        """Return a web page, which is untrusted."""
        return "page"

    agent.tools.offer(web)
    agent.tools.run("web")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_given", [False, True])
def test_what_one_puts_into_a_store_marks_who_gets_it_and_nobody_else(
    kernel: Kernel, *, is_async: bool, is_given: bool
) -> None:
    desk = Desk(kernel, kernel.spawn("store") if is_given else "store")

    def run(name: str, script: StoreProgram[str] | StoreProgram[None]) -> str | None:
        desk.name = name
        if is_async:
            return asyncio.run(desk.home.arun(script))
        return desk.home.run(script)

    writer, reader, other = (desk.agent(f"{who} {is_async} {is_given}") for who in "wro")
    read_the_web(writer)
    run(writer.name, put("what it read"))
    assert run(reader.name, get()) == "what it read"
    run(other.name, put("something else"))
    late = desk.agent(f"late {is_async} {is_given}")
    assert run(late.name, get()) == "something else"

    assert labels_of(reader) == {"tool:web"}
    assert labels_of(other) == set()
    assert labels_of(late) == set()


def test_a_task_or_thread_without_an_agent_gets_none_for_using_a_store(kernel: Kernel) -> None:
    directory = AgentDirectory()
    caller = current_caller()

    home = AgentStore("store", kernel, user=lambda: User.known(directory, caller, AgentSettings()))
    home.run(put("x"))

    assert len(directory) == 0
