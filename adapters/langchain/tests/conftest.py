"""Kernels for the adapter's tests: closed, checked and empty when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.cores import ScriptedCore
from aios_core.testing import cooperative_script
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.stub_server import Answer, Behavior, StubServer
from langchain_aios.callers import directory

from .sides import Sides

Boot = Callable[..., Kernel]
Serve = Callable[..., StubServer]


class WallClock:
    """The wall clock of a kernel's memory, set by hand."""

    def __init__(self, kernel: Kernel) -> None:
        self.now = 1_000.0
        with kernel.spawn("warm up") as agent:
            agent.memory.kv("n").set("key", "x")
        kernel._inside.parts.memory._tables._tables.kv._wall = lambda: self.now  # type: ignore[union-attr]

    def pass_minutes(self, minutes: float) -> None:
        self.now += 60 * minutes


@pytest.fixture
def watch() -> EventWatcher:
    """Sees every event of the kernels that `boot` starts."""
    return EventWatcher()


@pytest.fixture
def boot(watch: EventWatcher) -> Iterator[Boot]:
    """Start kernels on threads of their own, each with one scripted core."""
    started: list[Kernel] = []

    def start(
        script: Any = cooperative_script, memory: Any = None, access: Any = None, **settings: Any
    ) -> Kernel:
        config = KernelConfig.load(
            environ={},
            state={"directory": ":memory:"},
            memory=memory or {},
            access=access or {},
        )
        core = ScriptedCore(script, **settings)
        started.append(Kernel(config, cores=[core], observers=[watch]).start())
        return started[-1]

    yield start
    for kernel in started:
        kernel.check()
        kernel.close(0)
    directory.check()


@pytest.fixture
def kernel(boot: Boot) -> Kernel:
    """A kernel that does what it is asked to."""
    return boot()


@pytest.fixture
def as_default(kernel: Kernel) -> Iterator[Kernel]:
    """Make the kernel of this test the default kernel."""
    former = set_default_kernel(kernel)
    yield kernel
    set_default_kernel(former)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start providers."""
    running: list[StubServer] = []

    def start(*script: Behavior) -> StubServer:
        running.append(StubServer(list(script)).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def sides() -> Iterator[Callable[..., Sides]]:
    made: list[Sides] = []

    def make(*script: Behavior, **scheduler: Any) -> Sides:
        made.append(Sides(*(script or (Answer("well"),)), **scheduler))
        return made[-1]

    yield make
    for each in made:
        each.close()
