"""A fixture that starts stub servers and closes them when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_core.testing.stub_server import Script, StubServer

from .rig import TELL


@pytest.fixture
def serve() -> Iterator[Callable[..., StubServer]]:
    """Start stub servers; they stop when the test ends."""
    servers: list[StubServer] = []

    def start(script: Script = TELL, **options: Any) -> StubServer:
        servers.append(StubServer(script, **options).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.close()
