"""A fixture that starts stub servers and closes them when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Script

from .rig import TELL


@pytest.fixture
def serve() -> Iterator[Callable[..., AnthropicStubServer]]:
    """Start stub servers; they stop when the test ends."""
    servers: list[AnthropicStubServer] = []

    def start(script: Script = TELL, **options: Any) -> AnthropicStubServer:
        servers.append(AnthropicStubServer(script, **options).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.close()
