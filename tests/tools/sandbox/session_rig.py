"""Helpers for tests of agents' sessions."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aios_core.tools.sandbox import AgentSessions

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail
ALICE = "default/alice"
FOREVER = "while True: pass"


@contextmanager
def no_directory_left() -> Iterator[None]:
    """Fail if the block leaves a directory of the sandbox behind."""
    root = Path(tempfile.gettempdir())
    before = set(root.glob("aios-sandbox-*"))
    yield
    assert not set(root.glob("aios-sandbox-*")) - before


async def begun(
    sessions: AgentSessions, first: str, then: str, name: str = "a"
) -> asyncio.Task[Any]:
    """Run a cell that has done `first` and is at `then`."""
    code = f"{first}\nprint('begun')\n{then}"
    said = asyncio.Event()
    running = asyncio.create_task(
        sessions.execute(ALICE, name, code, on_output=lambda *_: said.set())
    )
    async with asyncio.timeout(PATIENCE):
        await said.wait()
    return running
