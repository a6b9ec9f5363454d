"""Kernels for the adapter's tests: closed, checked and empty when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.cores import ScriptedCore
from aios_core.testing import cooperative_script
from aios_core.testing.event_watcher import EventWatcher
from llama_index_aios.callers import directory

Boot = Callable[..., Kernel]
HERE = Path(__file__).parent
IGNORED = (
    ":pydantic.warnings.PydanticDeprecatedSince20",
    ":pydantic.warnings.PydanticDeprecatedSince211",
    "Skipping serialization of known unserializable key",
    "is_running called from within a step",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore warnings about LlamaIndex's own code, which this project cannot fix."""
    for item in items:
        if HERE in item.path.parents:
            for ignored in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{ignored}"))


@pytest.fixture
def watch() -> EventWatcher:
    """Sees every event of the kernels that `boot` starts."""
    return EventWatcher()


@pytest.fixture
def boot(watch: EventWatcher) -> Iterator[Boot]:
    """Start kernels on threads of their own, each with one scripted core."""
    started: list[Kernel] = []

    def start(script: Any = cooperative_script, access: Any = None, **settings: Any) -> Kernel:
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"}, access=access or {})
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
