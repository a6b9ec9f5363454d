"""Kernels for the adapter's tests: closed, checked and empty when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aios_core
from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.config import AccessConfig, SchedulerConfig, StateConfig
from aios_core.cores import OpenAICore, ScriptedCore
from aios_core.testing import EventWatcher, cooperative_script
from aios_core.testing.stub_server import Answer, Behavior, StubServer
from autogen_aios.callers import directory

from .clients import MODEL

QUIET = KernelConfig(state=StateConfig(directory=":memory:"), access=AccessConfig(approver="allow"))

Boot = Callable[..., Kernel]


@pytest.fixture
def watch() -> EventWatcher:
    """Sees every event of the kernels that `boot` starts."""
    return EventWatcher()


@pytest.fixture
def boot(watch: EventWatcher) -> Iterator[Boot]:
    """Start kernels on threads of their own, each with one scripted core."""
    started: list[Kernel] = []

    def start(script: Any = cooperative_script, **settings: Any) -> Kernel:
        core = ScriptedCore(script, **settings)
        started.append(Kernel(QUIET, cores=[core], observers=[watch]).start())
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
    """The kernel of the test, as the default kernel of the process."""
    former = set_default_kernel(kernel)
    yield kernel
    set_default_kernel(former)


@pytest.fixture
def provider() -> Iterator[Callable[..., StubServer]]:
    running: list[StubServer] = []

    def start(*script: Behavior) -> StubServer:
        server = StubServer(list(script) or Answer("one two"), models=[MODEL])
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.close()


@pytest.fixture
def substituted() -> Iterator[Callable[[StubServer], None]]:
    """Let a kernel with a core at that endpoint answer in the provider's place."""
    kernels: list[Kernel] = []
    former: list[Kernel | None] = []

    def start(server: StubServer) -> None:
        core = OpenAICore(server.base_url, [MODEL], api_key="k")
        config = KernelConfig(
            scheduler=SchedulerConfig(max_attempts=1, max_retry_s=1),
            state=StateConfig(directory=":memory:"),
            access=AccessConfig(approver="allow"),
        )
        kernels.append(Kernel(config, cores=[core]).start())
        former.append(set_default_kernel(kernels[-1]))
        aios_core.install(["agent_framework", "autogen", "autogen_classic"])

    yield start
    aios_core.uninstall()
    for kernel in kernels:
        set_default_kernel(former[0])
        kernel.check()
        kernel.close(0)
