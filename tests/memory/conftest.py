"""A kernel with its memory in RAM, and an agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios_core import (
    Agent,
    Kernel,
)

from .rig import kernel_on


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with kernel_on(":memory:", page_bytes=64) as running:
        yield running
        running.check()


@pytest.fixture
def alice(kernel: Kernel) -> Agent:
    return kernel.spawn("alice")
