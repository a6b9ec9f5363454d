"""Kill -9 at random points: all that was acknowledged is there in the next run.

One directory goes through all the kills, so recovery is killed too, and what the first
run acknowledged is still there after the last.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aios_core.access.audit.inspection import Inspection
from aios_core.state import NullCipher

from .audited_worker import kernel_on
from .layer import Layer, Promises

WORKER = Path(__file__).with_name("worker.py")
AUDITED_WORKER = Path(__file__).with_name("audited_worker.py")
MOST_ACKNOWLEDGEMENTS = 60  # of one life; a life ends after a random number of them


@contextmanager
def started(worker: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(worker)]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.fixture
def zygote() -> Iterator[subprocess.Popen[bytes]]:
    with started(WORKER) as process:
        yield process


def one_life(
    zygote: subprocess.Popen[bytes], directory: Path, life: int, chance: random.Random
) -> list[str]:
    """Let a child write, kill it after a random number of acknowledgements; all that it made."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    zygote.stdin.write(f"{life} {chance.getrandbits(32)} {directory}\n".encode())
    zygote.stdin.flush()
    lines = iter(zygote.stdout.readline, b"")
    pid = 0
    acknowledged: list[str] = []
    kill_after = chance.randint(0, MOST_ACKNOWLEDGEMENTS)
    for raw in lines:
        line = raw.decode().strip()
        if line == "dead":
            return acknowledged
        if line.startswith("born"):
            pid = int(line.split()[1])
        else:
            acknowledged.append(line)
        if pid and len(acknowledged) >= kill_after:
            os.kill(pid, signal.SIGKILL)
            kill_after = sys.maxsize  # once; what is still in the pipe was acknowledged too
    raise AssertionError("the worker ended")


def survive(zygote: subprocess.Popen[bytes], directory: Path, num_kills: int, seed: int) -> int:
    """Kill that often, looking everything over after each kill; the number of promises."""
    chance = random.Random(seed)
    everything, total = Promises(), 0

    async def broken(promises: Promises) -> list[str]:
        async with Layer.over(directory) as layer:
            return await layer.broken(promises)

    for life in range(num_kills):
        this = Promises()
        for line in one_life(zygote, directory, life, chance):
            this.add(line)
            everything.add(line)
            total += 1
        assert asyncio.run(broken(this)) == []
    assert asyncio.run(broken(everything)) == []
    return total


def test_what_was_acknowledged_survives_fifty_kills(
    zygote: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert survive(zygote, tmp_path, 50, seed=20_26) > 50


def allowed_in(directory: Path) -> set[str]:
    """Return the requests that the audit trail lists as allowed; it must be sound."""
    trail = Inspection(directory, NullCipher())
    assert trail.verified().faults == ()
    contents = [trail.content(row) or {} for row in trail.rows]
    return {f"{one['action']} {one['resource']}" for one in contents if one["event"] == "allowed"}


async def files_in(directory: Path) -> set[str]:
    async with kernel_on(directory) as kernel:
        alice = await kernel.aspawn("alice")
        return {file.path for file in await alice.storage.alist()}


def test_no_change_survives_a_kill_without_its_audit_record(tmp_path: Path) -> None:
    chance = random.Random(20_26)
    acknowledged: set[str] = set()
    with started(AUDITED_WORKER) as zygote:
        for life in range(15):
            acknowledged.update(one_life(zygote, tmp_path, life, chance))
            if not (tmp_path / "state.db").exists():
                continue  # killed before it began
            assert acknowledged <= allowed_in(tmp_path)
    kept = asyncio.run(files_in(tmp_path))
    written = {f"storage.write file:default/alice:{path}" for path in kept}
    assert written <= allowed_in(tmp_path)
    assert len(acknowledged) > 100


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_what_was_acknowledged_survives_five_hundred_kills(
    zygote: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert survive(zygote, tmp_path, 500, seed=500) > 1_000


def test_a_promise_that_is_not_kept_is_noticed(tmp_path: Path) -> None:
    """The test of the test: what was never written is missed, in each family."""
    promises = Promises()
    for line in ("raw k 1 d", "file /a 1 d", "memory b 1 d"):
        promises.add(line)

    async def broken() -> list[str]:
        async with Layer.over(tmp_path) as layer:
            return await layer.broken(promises)

    assert len(asyncio.run(broken())) == 3
