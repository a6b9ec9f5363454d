"""A sandbox that is closed again, on machines that have a tier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from aios_core.config import SandboxConfig
from aios_core.tools.sandbox import Availability, Limits, Sandbox, Tier, survey

MIB = 1 << 20
CONFIG = SandboxConfig(
    wall_s=30.0,
    cpu_s=20,
    memory_bytes=512 * MIB,
    disk_bytes=8 * MIB,
    files=500,
    output_bytes=50_000,
)


class Examined:
    """A tier that is known to work, and is not tried again for each test."""

    def __init__(self, tier: Tier, availability: Availability) -> None:
        self._tier = tier
        self._availability = availability

    def examine(self) -> Availability:
        return self._availability

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tier, name)


@pytest.fixture(scope="session")
def examined() -> Examined:
    """Bubblewrap; a machine without it skips what runs code."""
    ((tier, availability),) = survey(CONFIG).values()
    return Examined(tier, availability)


@pytest.fixture
def config(examined: Examined) -> SandboxConfig:
    if not (found := examined.examine()).is_there:
        pytest.skip(f"no sandbox here: {found.said}; {found.mend}")
    return CONFIG


@pytest.fixture
async def sandbox(config: SandboxConfig, examined: Examined) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(config, tiers={"bubblewrap": lambda _: examined})
    yield sandbox
    await sandbox.close()


@pytest.fixture
def brief(sandbox: Sandbox) -> Limits:
    """Limits of a second."""
    return replace(sandbox.limits, wall_s=1.0)
