"""Kernels for the adapter's tests: closed, checked and empty when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import ScriptedCore
from aios_core.testing import EventWatcher, cooperative_script
from autogen_aios.callers import directory

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
