"""Confined code reaches nothing outside. Probes have no effect even if they do."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.tools.sandbox import KilledBy, Sandbox, SandboxLimits

from .probes import PRELUDE, PROBES, REFUSED_CALLS, Probe, gone, processes_with, there

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Return the targets of probes: a file, a process and a socket of the host."""
    tmp_path.chmod(0o755)
    file = tmp_path / "secret"
    file.write_text("of the host")
    name = f"aios-probe-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        yield {
            "host_file": file,
            "host_pid": os.getpid(),
            "host_socket": name,
            "host_name": socket.gethostname(),
        }


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
async def test_confined_code_does_not_reach(
    probe: Probe, sandbox: Sandbox, facts: dict[str, object]
) -> None:
    result = await sandbox.run("python", probe.program(**facts))

    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "probe", [probe for probe in PROBES if probe.is_open_outside], ids=lambda probe: probe.name
)
def test_the_probe_finds_what_it_looks_for_where_nothing_confines_it(
    probe: Probe, facts: dict[str, object]
) -> None:
    outside = subprocess.run(  # noqa: S603
        [sys.executable, "-c", probe.program(**facts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert outside.stdout.startswith("REACHED"), outside.stderr


async def test_confined_code_makes_none_of_the_calls_that_open_doors(sandbox: Sandbox) -> None:
    calls = [
        f"print({name!r}, syscall({x86_64}, {aarch64}, {arguments}))"
        for name, x86_64, aarch64, arguments in REFUSED_CALLS
    ]

    result = await sandbox.run("python", "\n".join([PRELUDE, *calls]))

    answers = [line.rpartition(" ") for line in result.stdout.splitlines()]
    assert {name: int(error) for name, _, error in answers} == {
        name: errno.EPERM for name, *_ in REFUSED_CALLS
    }


def test_there_are_enough_probes() -> None:
    assert len(PROBES) + len(REFUSED_CALLS) >= 70
    assert len({probe.name for probe in PROBES}) == len(PROBES)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no other table of calls")
async def test_a_call_of_the_32_bit_table_kills_the_process(sandbox: Sandbox) -> None:
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""

    result = await sandbox.run("python", code)

    assert result.exit_code == 128 + 31  # SIGSYS


# --- what is used up ------------------------------------------------------------------------------


async def test_a_fork_bomb_runs_into_its_limit(sandbox: Sandbox) -> None:
    code = """
import os, time
for number in range(1000):
    try:
        if os.fork() == 0:
            time.sleep(100)
    except BlockingIOError:
        print(number)
        os._exit(0)
"""
    result = await sandbox.run("python", code)

    assert 0 < int(result.stdout) <= sandbox.limits.max_processes


async def test_one_process_gets_no_more_memory_than_it_may(sandbox: Sandbox) -> None:
    code = "try: bytearray(2 << 30)\nexcept MemoryError: print('refused')"

    assert (await sandbox.run("python", code)).stdout == "refused\n"


async def test_processes_that_together_use_too_much_memory_are_ended(sandbox: Sandbox) -> None:
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        kept = [b"x" * (1 << 20) for _ in range(60)]
        time.sleep(100)
time.sleep(100)
"""
    limits = replace(sandbox.limits, memory_bytes=200 << 20)

    result = await sandbox.run("python", code, limits=limits)

    assert result.killed_by is KilledBy.MEMORY
    assert "memory" in (result.notice or "")


async def test_shared_memory_that_no_page_table_mentions_counts_too(sandbox: Sandbox) -> None:
    code = """
import mmap, time
shared = mmap.mmap(-1, 300 << 20)
for at in range(0, len(shared), 1 << 20):
    shared[at : at + (1 << 20)] = b"x" * (1 << 20)
    shared.madvise(mmap.MADV_DONTNEED)
time.sleep(100)
"""
    limits = replace(sandbox.limits, memory_bytes=200 << 20)

    result = await sandbox.run("python", code, limits=limits)

    assert result.killed_by is KilledBy.MEMORY


@pytest.mark.parametrize("place", ["/work", "/tmp"])  # noqa: S108 - the sandbox's own
async def test_a_disk_that_is_full_is_the_sandboxs_own(place: str, sandbox: Sandbox) -> None:
    code = f"""
written = 0
try:
    for number in range(100):
        with open(f"{place}/{{number}}", "wb", buffering=0) as file:
            written += file.write(b"x" * (1 << 20))
except OSError as exc:
    print(exc.errno, written)
"""
    result = await sandbox.run("python", code)

    error, written = map(int, result.stdout.split())
    assert error == 28  # ENOSPC
    assert written <= sandbox.limits.disk_bytes


async def test_a_file_is_no_larger_than_the_disk(sandbox: Sandbox) -> None:
    code = """
import os
try:
    os.truncate(os.open("/work/x", os.O_CREAT | os.O_WRONLY), 1 << 40)
except OSError as exc:
    print(exc.errno)
"""

    assert (await sandbox.run("python", code)).stdout == "27\n"  # EFBIG


async def test_too_many_files_end_the_run(sandbox: Sandbox) -> None:
    code = "import time\nfor n in range(600): open(f'/tmp/{n}', 'w').close()\ntime.sleep(100)"

    assert (await sandbox.run("python", code)).killed_by is KilledBy.DISK


async def test_output_is_cut_at_its_limit_and_the_program_goes_on(sandbox: Sandbox) -> None:
    result = await sandbox.run("python", "print('x' * 70_000); print('end')")

    assert (len(result.stdout), result.truncated, result.exit_code) == (50_000, True, 0)


async def test_a_flood_of_output_ends_the_run(sandbox: Sandbox) -> None:
    result = await sandbox.run("python", "while True: print('x' * 1000)")

    assert result.killed_by is KilledBy.OUTPUT
    assert len(result.stdout) == 50_000


async def test_processor_time_ends(sandbox: Sandbox) -> None:
    result = await sandbox.run(
        "shell", "while :; do :; done", limits=replace(sandbox.limits, cpu_s=1)
    )

    assert result.killed_by is KilledBy.CPU


async def test_a_program_that_ignores_the_end_of_its_processor_time_is_ended(
    sandbox: Sandbox,
) -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"

    result = await sandbox.run("python", code, limits=replace(sandbox.limits, cpu_s=1))

    assert result.exit_code == 128 + 9
    assert result.duration_s < 20


async def test_wall_time_ends(sandbox: Sandbox, brief: SandboxLimits) -> None:
    result = await sandbox.run("shell", "sleep 1000", limits=brief)

    assert result.killed_by is KilledBy.WALL
    assert result.exit_code == 128 + 9


# --- what is left behind --------------------------------------------------------------------------


async def test_a_daemon_dies_with_its_sandbox(sandbox: Sandbox) -> None:
    marker = f"daemon-{uuid.uuid4()}"
    code = f"(setsid sh -c 'sleep 1000; : {marker}' >/dev/null 2>&1 &) ; echo started"

    result = await sandbox.run("shell", code)

    assert result.stdout == "started\n"
    assert result.duration_s < PATIENCE
    assert processes_with(marker) == []


async def test_the_first_process_cannot_be_killed_from_inside(sandbox: Sandbox) -> None:
    result = await sandbox.run("shell", "kill -9 1; kill -9 -- -1; echo alive")

    assert result.exit_code in {0, 128 + 9}  # itself, perhaps; nothing else was there to hit


@pytest.mark.usefixtures("config")
async def test_it_all_dies_with_the_kernels_process() -> None:
    marker = f"orphan-{uuid.uuid4()}"
    program = f"""
import sys
from aios_core.tools.sandbox import Sandbox
sandbox = Sandbox()
sandbox.run_blocking("shell", "echo started; sleep 1000; : {marker}",
                     on_output=lambda *_: print("started", flush=True))
"""
    kernel = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert kernel.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await kernel.stdout.readline() == b"started\n"
    assert await there(f": {marker}")

    kernel.kill()
    await kernel.communicate()

    assert await gone(f": {marker}")
