"""Runs of programs: their inputs, their results, and their ends."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.config import SandboxConfig
from aios_core.errors import InvalidRequest, KernelClosed, QuotaExceeded
from aios_core.testing import nothing_left
from aios_core.tools.sandbox import KilledBy, Sandbox, SandboxLimits
from aios_core.tools.sandbox.runner import program_for, run
from aios_core.tools.sandbox.sandbox import limits_of

from .conftest import Examined
from .files import Files, contents
from .probes import gone, processes_with, there

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


async def test_python_runs_and_says_what_it_printed(sandbox: Sandbox) -> None:
    result = await sandbox.run("python", "import sys\nprint(6 * 7)\nprint('no', file=sys.stderr)")

    assert (result.stdout, result.stderr, result.exit_code) == ("42\n", "no\n", 0)
    assert result.is_ok


async def test_a_shell_runs_too(sandbox: Sandbox) -> None:
    result = await sandbox.run("shell", "echo $((6 * 7)) | tr 4 5; exit 3")

    assert (result.stdout, result.exit_code, result.is_ok) == ("52\n", 3, False)


async def test_an_exception_is_a_traceback_with_the_line_of_the_code(sandbox: Sandbox) -> None:
    result = await sandbox.run("python", "def f():\n    return 1 / 0\nf()")

    assert result.exit_code == 1
    assert "return 1 / 0" in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


async def test_standard_input_is_what_was_given(sandbox: Sandbox) -> None:
    sent = b"x" * 300_000  # more than a pipe holds

    result = await sandbox.run("python", "print(len(input()))", stdin=sent)

    assert result.stdout == "300000\n"


async def test_standard_input_that_nobody_reads_is_dropped(sandbox: Sandbox) -> None:
    result = await sandbox.run("shell", "echo done", stdin=b"x" * 300_000)

    assert result.stdout == "done\n"


async def test_output_comes_while_the_program_runs(sandbox: Sandbox) -> None:
    heard: list[tuple[str, str]] = []
    first = asyncio.Event()

    def listen(stream: str, text: str) -> None:
        heard.append((stream, text))
        first.set()

    code = "echo begun; sleep 100"
    running = asyncio.create_task(sandbox.run("shell", code, on_output=listen))
    async with asyncio.timeout(PATIENCE):
        await first.wait()

    assert heard == [("stdout", "begun\n")]
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_a_listener_that_fails_harms_nobody(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: str) -> None:
        raise ZeroDivisionError

    result = await asyncio.to_thread(sandbox.run_blocking, "shell", "echo one", on_output=fail)

    assert result.stdout == "one\n"
    assert "ZeroDivisionError" in caplog.text


async def test_output_that_is_no_utf8_has_replacement_characters(sandbox: Sandbox) -> None:
    result = await sandbox.run("shell", r"printf 'a\377b\303'")

    assert result.stdout == "a�b�"


async def test_a_letter_that_comes_in_two_pieces_stays_one(sandbox: Sandbox) -> None:
    result = await sandbox.run("shell", r"printf '\303'; sleep 0.05; printf '\244'")

    assert result.stdout == "ä"


async def test_files_are_found_and_changes_are_handed_back(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "numbers.txt").write_text("1 2 3")
    (tmp_path / "library.py").write_text("def total(text): return sum(map(int, text.split()))")
    code = """
from pathlib import Path
import library
Path("out").mkdir()
Path("out/total.txt").write_text(str(library.total(Path("numbers.txt").read_text())))
Path("numbers.txt").unlink()
"""
    result = await sandbox.run("python", code, files=tmp_path)

    assert (result.stderr, result.files.written) == ("", ("out/total.txt",))
    assert result.files.removed == ("numbers.txt",)
    assert (tmp_path / "out/total.txt").read_text() == "6"
    assert not (tmp_path / "numbers.txt").exists()


async def test_a_link_to_the_host_is_a_link_to_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    code = "ln -s /etc/hostname link; cat link"

    result = await sandbox.run("shell", code, files=tmp_path)

    assert result.exit_code == 1
    assert result.files.skipped == ("link",)
    assert contents(tmp_path) == {}


async def test_files_of_a_run_that_was_ended_are_handed_back(
    sandbox: Sandbox, brief: SandboxLimits, tmp_path: Path
) -> None:
    result = await sandbox.run("shell", "echo x > kept; sleep 100", files=tmp_path, limits=brief)

    assert result.killed_by is KilledBy.WALL
    assert (tmp_path / "kept").read_text() == "x\n"


async def test_files_that_are_too_large_are_refused_and_nothing_runs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(b"x" * (sandbox.limits.disk_bytes + 1))

    with pytest.raises(QuotaExceeded):
        await sandbox.run("shell", "echo", files=tmp_path)


@pytest.mark.parametrize(
    ("language", "code"), [("cobol", "x"), ("python", "a\0b"), ("python", "'\ud800'")]
)
async def test_what_cannot_be_code_is_refused(language: str, code: str, sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequest):
        await sandbox.run(language, code)  # type: ignore[arg-type]


async def test_cancelling_kills_every_process(sandbox: Sandbox) -> None:
    marker = f"cancelled-{uuid.uuid4()}"
    begun = asyncio.Event()
    code = f"sh -c 'echo begun; sleep 1000; : {marker}' & wait"
    running = asyncio.create_task(sandbox.run("shell", code, on_output=lambda *_: begun.set()))
    async with asyncio.timeout(PATIENCE):
        await begun.wait()
        assert await there(marker)

        running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running
    assert await gone(marker)


@pytest.mark.parametrize("num_steps", range(6))
async def test_a_second_cancellation_does_not_interrupt_the_cleanup(
    config: SandboxConfig, examined: Examined, num_steps: int
) -> None:
    if not examined.examine().is_available:
        pytest.skip("no sandbox here")
    marker = f"twice-{uuid.uuid4()}"
    code = f"sh -c 'echo begun; sleep 1000; : {marker}' & wait"
    program = program_for(examined, "shell", code, limits_of(config))
    begun = asyncio.Event()
    with ThreadPoolExecutor(2) as threads:
        running = asyncio.create_task(
            run(examined, program, threads, stdin=b"x" * 300_000, on_output=lambda *_: begun.set())
        )
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        assert await there(marker)
        running.cancel()
        for _ in range(num_steps):
            await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([running])
            while cleanup := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(cleanup)

    assert await gone(marker)


async def test_cancelling_while_it_starts_leaves_nothing(config: SandboxConfig) -> None:
    with nothing_left():
        sandbox = Sandbox(config)
        await sandbox.examine()
        for delay in (0.0, 0.001, 0.005, 0.01, 0.02):
            running = asyncio.create_task(sandbox.run("shell", "sleep 1000"))
            await asyncio.sleep(delay)
            running.cancel()
            await asyncio.wait([running])
        await sandbox.close()


async def test_many_run_at_once(sandbox: Sandbox) -> None:
    results = await asyncio.gather(
        *(sandbox.run("shell", f"echo {number}") for number in range(20))
    )

    assert [int(result.stdout) for result in results] == list(range(20))


async def test_the_callers_loop_stays_free(sandbox: Sandbox) -> None:
    await sandbox.examine()
    longest, loop = 0.0, asyncio.get_running_loop()
    running = asyncio.create_task(sandbox.run("python", "while True: print('x' * 1000)"))

    while not running.done():
        began = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - began)

    assert longest < 0.2


async def test_any_thread_may_run_code(sandbox: Sandbox) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        results.append(sandbox.run_blocking("shell", f"echo {number}").stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])

    assert sorted(results) == ["0\n", "1\n", "2\n", "3\n"]


async def test_closing_kills_what_runs_and_refuses_what_comes(config: SandboxConfig) -> None:
    marker = f"closed-{uuid.uuid4()}"
    with nothing_left():
        sandbox = Sandbox(config)
        begun = asyncio.Event()
        running = asyncio.create_task(
            sandbox.run(
                "shell", f"echo begun; sleep 1000; : {marker}", on_output=lambda *_: begun.set()
            )
        )
        async with asyncio.timeout(PATIENCE):
            await begun.wait()

        await sandbox.close()

        assert processes_with(marker) == []
        await asyncio.wait([running])
        assert running.cancelled()
        with pytest.raises(KernelClosed):
            await sandbox.run("shell", "echo")


async def test_a_sandbox_that_was_never_used_closes() -> None:
    with nothing_left():
        sandbox = Sandbox()
        await sandbox.close()
        await sandbox.close()


async def test_limits_of_a_call_are_its_own(sandbox: Sandbox) -> None:
    limits = replace(sandbox.limits, output_bytes=3)

    assert (await sandbox.run("shell", "echo 12345", limits=limits)).stdout == "123"
    assert (await sandbox.run("shell", "echo 12345")).stdout == "12345\n"


# --- an agent's files -----------------------------------------------------------------------------


@pytest.fixture
async def working(config: SandboxConfig) -> AsyncIterator[tuple[Sandbox, Files]]:
    files = Files()
    sandbox = Sandbox(config, workspace=files)
    yield sandbox, files
    await sandbox.close()


async def test_code_works_on_an_agents_files(working: tuple[Sandbox, Files]) -> None:
    sandbox, files = working
    code = "tr a-z A-Z < in.txt > out.txt"

    result = await sandbox.run_for("default/alice", "shell", code, labels=frozenset({"web"}))

    assert files.trees["default/alice"] == {"in.txt": "hello", "out.txt": "HELLO"}
    assert files.commits == [("default/alice", frozenset({"web"}))]
    assert result.labels == {"mail"}


async def test_code_that_changes_nothing_commits_nothing(working: tuple[Sandbox, Files]) -> None:
    sandbox, files = working

    assert (await sandbox.run_for("default/alice", "shell", "cat in.txt")).stdout == "hello"
    assert files.commits == []


async def test_without_a_workspace_code_runs_on_no_files(sandbox: Sandbox) -> None:
    assert (await sandbox.run_for("default/alice", "shell", "ls -A")).stdout == ""
