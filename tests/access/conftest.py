"""Fixtures that boot kernels with an approver of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aios_core import (
    Kernel,
    KernelConfig,
)
from aios_core.cores.scripted import ScriptedCore

from .rig import Boot


@pytest.fixture
async def boot() -> AsyncIterator[Boot]:
    kernels: list[Kernel] = []

    async def start(approver: Any = None, directory: str = ":memory:", **access: Any) -> Kernel:
        config = KernelConfig.load(environ={}, state={"directory": directory}, access=access)
        kernel = Kernel(config, cores=[ScriptedCore("ok")], approver=approver)
        kernels.append(await kernel.__aenter__())
        return kernel

    yield start
    for kernel in kernels:
        await kernel.aclose(0)


@pytest.fixture
async def kernel(boot: Boot) -> Kernel:
    started: Kernel = await boot()
    return started
