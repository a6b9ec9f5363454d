"""A process that is killed while it writes loses no write that was answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aios_core.config import MemoryConfig
from aios_core.memory.requests import MemoryRead
from aios_core.memory.thread_requests import ThreadRead

from .rig import Machine

PROGRAM = """
import sys
from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore

config = KernelConfig(state={"directory": sys.argv[1]}, memory={"page_bytes": 64})
with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
    memory = kernel.spawn("alice").memory
    for number in range(100_000):
        memory.append("log", f"{number:08}")
        memory.thread("t").append(number)
        print(number, flush=True)
"""


@pytest.mark.parametrize("num_answered", [1, 7, 40])
def test_a_killed_process_loses_nothing_that_was_answered(
    tmp_path: Path, num_answered: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:  # noqa: S603
        assert victim.stdout is not None
        for _ in range(num_answered):
            last = int(victim.stdout.readline())
        victim.kill()

    machine = Machine(tmp_path, MemoryConfig())
    log = machine.ask(MemoryRead("log"))
    entries = machine.ask(ThreadRead("t"))
    machine.close()

    numbers = [int(log[at : at + 8]) for at in range(0, len(log), 8)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last
    assert [entry.content for entry in entries] == numbers[: len(entries)]
    assert len(entries) > last
