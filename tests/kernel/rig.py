"""A scripted core that echoes, and helpers for tests that call a kernel from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from aios_core import (
    KernelConfig,
)
from aios_core.cores import ScriptedCore
from tests.puppet import PATIENCE

QUICK = KernelConfig(drain_s=0.0)


def echo() -> ScriptedCore:
    return ScriptedCore(lambda request: request.messages[-1].content)


def in_thread(work: Callable[[], object]) -> Future[object]:
    """Run something on a thread that dies with the test run."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - it is the test's
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return done


def until(holds: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)
