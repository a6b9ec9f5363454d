"""A fixture for the process ids of stand-in servers, of which none may be left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .rig import alive


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """The file to which stand-in servers append their process ids."""
    file = tmp_path / "pids"
    yield file
    left = alive(file)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"processes of a server are left: {left}"
