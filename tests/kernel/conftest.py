"""A fixture that boots kernels and closes them when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from aios_core import (
    Kernel,
    KernelConfig,
)
from aios_core.core import Core

from .drawer import Doorkeeper, Drawer
from .rig import QUICK, echo


@pytest.fixture
def boot() -> Iterator[Callable[..., Kernel]]:
    """Start kernels with a thread of their own; checked and closed when the test ends."""
    started: list[Kernel] = []

    def start(*cores: Core, config: KernelConfig = QUICK, **settings: object) -> Kernel:
        started.append(Kernel(config, cores=cores or [echo()], **settings).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for kernel in started:
        if "running" in repr(kernel):
            kernel.check()
        kernel.close()


@pytest.fixture
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper()
