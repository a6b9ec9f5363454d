"""A kernel with agents that only run tools, an agent, and tools that a test controls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core import (
    Agent,
    Kernel,
)

from .mcp_rig import Marks
from .rig import Held, quiet_kernel


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.may_end.set()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with quiet_kernel() as kernel:
        yield kernel
        kernel.check()


@pytest.fixture
def agent(kernel: Kernel) -> Agent:
    return kernel.spawn("alice")


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path)
