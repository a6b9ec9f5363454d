"""Cleanups and work on a thread are awaited to their end, however often that is cancelled."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path

import pytest

from aios_core.shielding import finish_shielded
from aios_core.tools.sandbox.workspace import scratch

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


class Slow:
    """Work that ends when a test allows it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.has_begun = asyncio.Event()
        self.may_end = threading.Event()
        self._error = error
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self.has_begun.set)
        assert self.may_end.wait(PATIENCE)
        if self._error is not None:
            raise self._error
        return "done"


def is_there(path: str) -> bool:
    return Path(path).exists()


async def begun(slow: Slow) -> asyncio.Task[str]:
    waiting = asyncio.create_task(finish_shielded(asyncio.to_thread(slow)))
    async with asyncio.timeout(PATIENCE):
        await slow.has_begun.wait()
    return waiting


async def test_what_it_came_to_is_handed_on() -> None:
    slow = Slow()
    waiting = await begun(slow)
    slow.may_end.set()

    assert await waiting == "done"


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_who_is_cancelled_leaves_only_when_the_work_has_ended(
    error: Exception | None,
) -> None:
    slow = Slow(error)
    waiting = await begun(slow)

    waiting.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    slow.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_scratch_directory_that_nobody_waits_for_any_more_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, made = Slow(), []

    def make() -> tempfile.TemporaryDirectory[str]:
        slow()
        made.append(tempfile.TemporaryDirectory())
        return made[0]

    async def use() -> None:
        async with scratch():
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr("aios_core.tools.sandbox.workspace.empty_directory", make)
    using = asyncio.create_task(use())
    async with asyncio.timeout(PATIENCE):
        await slow.has_begun.wait()

    using.cancel()
    slow.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await using
    assert not is_there(made[0].name)
