"""Every test is also a test for leftovers: threads of the kernel, and files of its disk tier."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


def pytest_configure() -> None:
    """Let programs that tests start be ended by Ctrl-C, also where pytest itself runs unseen.

    What a shell starts in the background ignores SIGINT, and passes that on.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("aios-") and t.is_alive()}


def _files() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("aios-context-*"))


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a kernel's thread, or its temporary directory, behind."""
    threads = _threads()
    yield
    end = time.monotonic() + PATIENCE
    while (left := _threads() - threads) and time.monotonic() < end:
        next(iter(left)).join(0.05)
    assert not left, f"{request.node.name} leaves threads: {sorted(t.name for t in left)}"


@pytest.fixture(autouse=True, scope="session")
def no_files_left() -> Iterator[None]:
    """Fail a session that leaves temporary directories of the context switcher behind."""
    before = _files()
    yield
    assert not _files() - before
