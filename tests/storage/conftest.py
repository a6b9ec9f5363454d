"""A running kernel, and the files of an agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios_core import Kernel
from aios_core.storage import Storage

from .rig import kernel


@pytest.fixture
def running() -> Iterator[Kernel]:
    with kernel() as one:
        yield one


@pytest.fixture
def files(running: Kernel) -> Storage:
    return running.spawn("alice").storage
