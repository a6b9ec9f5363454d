"""A sandbox that is closed again, on machines that have an isolation backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from aios_core.config import SandboxConfig
from aios_core.tools.sandbox import (
    AgentSessions,
    Availability,
    Sandbox,
    SandboxBackend,
    SandboxLimits,
    probe_backends,
)

from .files import Files
from .session_rig import no_directory_left

MIB = 1 << 20
CONFIG = SandboxConfig(
    wall_s=30.0,
    cpu_s=20,
    memory_bytes=512 * MIB,
    disk_bytes=8 * MIB,
    max_files=500,
    output_bytes=50_000,
)


class Examined:
    """A backend that is known to work, and is not probed again for each test."""

    def __init__(self, backend: SandboxBackend, availability: Availability) -> None:
        self._backend = backend
        self._availability = availability

    def examine(self) -> Availability:
        return self._availability

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture(scope="session")
def examined() -> Examined:
    """Return bubblewrap; a machine without it skips the tests that run code."""
    ((backend, availability),) = probe_backends(CONFIG).values()
    return Examined(backend, availability)


@pytest.fixture
def config(examined: Examined) -> SandboxConfig:
    if not (found := examined.examine()).is_available:
        pytest.skip(f"no sandbox here: {found.reason}; {found.fix}")
    return CONFIG


@pytest.fixture
async def sandbox(config: SandboxConfig, examined: Examined) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(config, backends={"bubblewrap": lambda _: examined})
    yield sandbox
    await sandbox.close()


@pytest.fixture
def brief(sandbox: Sandbox) -> SandboxLimits:
    """Return limits of one second."""
    return replace(sandbox.limits, wall_s=1.0)


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
async def sessions(sandbox: Sandbox, files: Files) -> AsyncIterator[AgentSessions]:
    sessions = AgentSessions(sandbox, files, is_alive=lambda _: True)
    with no_directory_left():
        yield sessions
        await sessions.close()
