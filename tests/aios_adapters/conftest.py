"""A kernel for the tests that need agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        yield kernel
        kernel.check()
