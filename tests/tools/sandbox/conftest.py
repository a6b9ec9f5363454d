"""A sandbox that is closed again, on machines that have a tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from aios_core.config import SandboxConfig
from aios_core.tools.sandbox import Availability, Limits, Sandbox, survey

MIB = 1 << 20
CONFIG = SandboxConfig(
    wall_s=30.0, cpu_s=20, memory_bytes=512 * MIB, disk_bytes=8 * MIB, files=500, output_bytes=50_000
)


@pytest.fixture(scope="session")
def availability() -> Availability:
    """Of bubblewrap; a machine without it skips what runs code."""
    ((_, found),) = survey(CONFIG).values()
    return found


@pytest.fixture
def has_tier(availability: Availability) -> None:
    if not availability.is_there:
        pytest.skip(f"no sandbox here: {availability.said}; {availability.mend}")


@pytest.fixture
async def sandbox(has_tier: None) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(CONFIG)
    yield sandbox
    await sandbox.close()


@pytest.fixture
def brief(sandbox: Sandbox) -> Limits:
    """Limits of a second."""
    return replace(sandbox.limits, wall_s=1.0)

