"""Sessions: cells that share variables, within a lifetime."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.config import SandboxConfig
from aios_core.errors import InvalidRequest, QuotaExceeded, ToolError
from aios_core.testing import nothing_left
from aios_core.tools.sandbox import KilledBy, Sandbox, Session

from .probes import processes_with, there

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


async def ended(session: Session) -> bool:
    """Wait until a session has ended. Returns whether it did in time."""
    patience = PATIENCE
    while session.state != "ended" and patience > 0:
        patience -= 0.01
        await asyncio.sleep(0.01)
    return session.state == "ended"


@pytest.fixture
async def session(sandbox: Sandbox) -> Session:
    return await sandbox.open_session("default/alice")


async def test_a_cell_finds_the_variables_of_the_one_before(session: Session) -> None:
    await session.execute("x = 41")

    result = await session.execute("x + 1")

    assert (result.value, result.exit_code, result.stdout) == ("42", 0, "")


async def test_only_a_last_expression_has_a_value(session: Session) -> None:
    assert (await session.execute("1\n2")).value == "2"
    assert (await session.execute("None")).value is None
    assert (await session.execute("y = 3")).value is None
    assert (await session.execute("")).value is None
    assert (await session.execute("_")).value == "2"


async def test_functions_classes_and_imports_stay(session: Session) -> None:
    await session.execute(
        "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def twice(p): return P(p.x * 2)"
    )

    result = await session.execute("pickle.loads(pickle.dumps(twice(P(4))))")

    assert result.value == "P(x=8)"


async def test_an_exception_is_a_traceback_and_the_session_goes_on(session: Session) -> None:
    failed = await session.execute("z = 1\ndef f():\n    raise ValueError('bad')\nf()")

    assert (failed.exit_code, failed.killed_by) == (1, None)
    assert failed.stderr.startswith('Traceback (most recent call last):\n  File "<cell 1>"')
    assert "raise ValueError('bad')" in failed.stderr
    assert "driver" not in failed.stderr
    assert (await session.execute("z")).value == "1"


@pytest.mark.parametrize("code", ["x = (", "exit(3)", "1/0", "raise KeyboardInterrupt"])
async def test_a_cell_that_fails_leaves_the_session_alive(code: str, session: Session) -> None:
    assert (await session.execute(code)).exit_code == 1
    assert (await session.execute("1")).value == "1"


async def test_output_belongs_to_its_cell(session: Session) -> None:
    first = await session.execute("import sys; print('one'); print('err', file=sys.stderr)")
    second = await session.execute("print('two')")

    assert (first.stdout, first.stderr) == ("one\n", "err\n")
    assert (second.stdout, second.stderr) == ("two\n", "")


async def test_output_comes_while_the_cell_runs(session: Session) -> None:
    begun = asyncio.Event()
    running = asyncio.create_task(
        session.execute(
            "import time; print('begun'); time.sleep(100)", on_output=lambda *_: begun.set()
        )
    )
    async with asyncio.timeout(PATIENCE):
        await begun.wait()

    assert session.state == "busy"
    assert await session.interrupt()
    result = await running
    assert result.killed_by is KilledBy.INTERRUPT
    assert result.stderr.endswith("KeyboardInterrupt\n")
    assert (await session.execute("time.__name__")).value == "'time'"


async def test_there_is_nothing_to_interrupt_between_cells(session: Session) -> None:
    assert not await session.interrupt()
    await session.execute("x = 1")
    assert not await session.interrupt()
    assert (await session.execute("x")).value == "1"


async def test_a_cell_that_takes_too_long_is_interrupted_and_the_session_goes_on(
    session: Session,
) -> None:
    await session.execute("x = 5")

    late = await session.execute("while True: pass", timeout_s=0.3)

    assert late.killed_by is KilledBy.WALL
    assert late.notice == "ended: it was still running after 0.3 s"
    assert (await session.execute("x")).value == "5"


async def test_a_cell_that_cannot_be_interrupted_ends_the_session(session: Session) -> None:
    await session.execute("import signal")

    late = await session.execute(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", timeout_s=0.2
    )

    assert late.killed_by is KilledBy.WALL
    assert "did not stop" in (late.notice or "")
    assert session.state == "ended"


async def test_a_cancelled_cell_is_interrupted_and_the_session_goes_on(session: Session) -> None:
    begun = asyncio.Event()
    running = asyncio.create_task(
        session.execute(
            "kept = 1\nimport time\nprint('begun')\ntime.sleep(100)",
            on_output=lambda *_: begun.set(),
        )
    )
    async with asyncio.timeout(PATIENCE):
        await begun.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    result = await session.execute("kept")
    assert (result.value, result.stdout, result.stderr) == ("1", "", "")


async def test_a_session_that_died_says_so_and_can_be_restarted(session: Session) -> None:
    await session.execute("x = 1")

    died = await session.execute("import os; os._exit(7)")

    assert died.exit_code == 7
    assert "variables are lost" in (died.notice or "")
    with pytest.raises(ToolError, match="ended with status 7; restart"):
        await session.execute("x")
    await session.restart()
    assert "NameError" in (await session.execute("x")).stderr


async def test_a_session_that_dies_between_cells_is_noticed(session: Session) -> None:
    await session.execute(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(9))).start()"
    )

    assert await ended(session)
    assert session.why_ended == "its process ended with status 9"


async def test_a_session_that_uses_too_much_memory_is_ended(sandbox: Sandbox) -> None:
    limits = replace(sandbox.limits, memory_bytes=200 << 20)
    session = await sandbox.open_session("default/alice", limits=limits)

    result = await session.execute(
        "import time\nkept = [bytearray(b'x' * (1 << 20)) for _ in range(250)]\ntime.sleep(100)"
    )

    assert result.killed_by is KilledBy.MEMORY


async def test_a_flood_ends_the_session(session: Session) -> None:
    result = await session.execute("while True: print('x' * 1000)")

    assert result.killed_by is KilledBy.OUTPUT
    assert session.state == "ended"


async def test_cells_run_one_at_a_time_in_order(session: Session) -> None:
    await session.execute("seen = []")

    await asyncio.gather(*(session.execute(f"seen.append({n})") for n in range(5)))

    assert (await session.execute("seen")).value == "[0, 1, 2, 3, 4]"


async def test_a_shell_cell_shares_the_files(session: Session) -> None:
    await session.execute("open('a.txt', 'w').write('hello')")

    result = await session.execute("cat a.txt; exit 4", language="shell")

    assert (result.stdout, result.exit_code) == ("hello", 4)


async def test_a_sessions_files_are_kept_like_the_hosts(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    session = await sandbox.open_session("default/alice", files=tmp_path)

    first = await session.execute("open('b', 'w').write(open('a').read() + '2')")
    (tmp_path / "a").write_text("changed")
    second = await session.execute("open('a').read()")

    assert first.files.written == ("b",)
    assert (tmp_path / "b").read_text() == "12"
    assert (second.value, second.files.written) == ("'changed'", ())


async def test_a_cell_that_forks_has_one_answer(session: Session) -> None:
    await session.execute("import os\nif os.fork() == 0: x = 'child'\nelse: x = 'parent'")

    assert (await session.execute("x")).value == "'parent'"


async def test_standard_input_is_at_its_end(session: Session) -> None:
    assert "EOFError" in (await session.execute("input()")).stderr


async def test_a_value_that_cannot_be_shown_is_an_exception(session: Session) -> None:
    result = await session.execute("class A:\n    def __repr__(self): raise ValueError('no')\nA()")

    assert "ValueError: no" in result.stderr


async def test_a_value_has_a_greatest_length_and_is_text(session: Session) -> None:
    assert len((await session.execute("'x' * 1_000_000")).value or "") < 110_000
    assert (
        await session.execute("type('T', (), {'__repr__': lambda s: '\\ud800'})()")
    ).value == "?"


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">I", 0xFFFF_FFFF),
        struct.pack(">I", 4) + b"nope",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 41) + b'{"cell": 99, "exit_code": 0, "value": ""}',
        struct.pack(">I", 43) + b'{"cell": 1, "exit_code": 1e999, "value": ""}'[:43],
    ],
)
async def test_a_driver_that_lies_ends_the_session(content: bytes, session: Session) -> None:
    code = f"""
import os, time
for fd in map(int, os.listdir('/proc/self/fd')):
    if fd > 2:
        try: os.write(fd, {content!r})
        except OSError: pass
time.sleep(100)
"""
    result = await session.execute(code)

    assert not result.is_ok
    assert "broke the protocol" in (result.notice or "")
    assert session.state == "ended"


@pytest.mark.parametrize("code", ["a\0b", "'\ud800'"])
async def test_what_cannot_be_code_is_refused(code: str, session: Session) -> None:
    with pytest.raises(InvalidRequest):
        await session.execute(code)


async def test_a_language_that_is_not_known_is_refused(session: Session) -> None:
    with pytest.raises(InvalidRequest, match="cobol"):
        await session.execute("x", language="cobol")  # type: ignore[arg-type]


async def test_any_thread_may_use_it(sandbox: Sandbox) -> None:
    def work() -> str | None:
        session = sandbox.open_session_blocking("default/bob")
        session.execute_blocking("x = 2")
        assert not session.interrupt_blocking()
        value = session.execute_blocking("x").value
        session.restart_blocking()
        session.close_blocking()
        return value

    assert await asyncio.to_thread(work) == "2"


# --- how long, how many ---------------------------------------------------------------------------


@pytest.fixture
async def short(config: SandboxConfig) -> AsyncIterator[Sandbox]:
    """Return sessions with a short lifetime, long enough to start one on a busy machine."""
    sandbox = Sandbox(replace(config, max_session_s=5.0, session_idle_s=2.0))
    yield sandbox
    await sandbox.close()


async def test_a_session_that_does_nothing_ends(short: Sandbox) -> None:
    session = await short.open_session("default/alice")
    await session.execute("x = 1")

    assert await ended(session)
    assert session.why_ended == "it was idle for too long"


async def test_a_session_that_never_rests_ends_when_its_life_is_over(short: Sandbox) -> None:
    session = await short.open_session("default/alice")

    result = await session.execute("import time; time.sleep(100)")

    assert result.killed_by is KilledBy.LIFE
    assert "it reached its maximum lifetime" in (result.notice or "")


async def test_an_agent_has_so_many_sessions_and_no_more(sandbox: Sandbox) -> None:
    first = await sandbox.open_session("default/alice")
    await sandbox.open_session("default/alice")

    with pytest.raises(QuotaExceeded, match="2 of 2 sessions"):
        await sandbox.open_session("default/alice")

    await sandbox.open_session("default/bob")
    await first.close()
    await sandbox.open_session("default/alice")
    with pytest.raises(QuotaExceeded):
        await first.restart()


async def test_forgetting_an_agent_ends_its_sessions(sandbox: Sandbox) -> None:
    marker = f"forgotten-{uuid.uuid4()}"
    session = await sandbox.open_session("default/alice")
    other = await sandbox.open_session("default/bob")
    await session.execute(
        f"import subprocess; p = subprocess.Popen(['sh', '-c', 'sleep 1000; : {marker}'])"
    )
    assert await there(marker)

    await sandbox.forget("default/alice")

    assert processes_with(marker) == []
    assert (session.state, other.state) == ("ended", "new")
    assert sandbox.sessions("default/alice") == []


async def test_closing_the_sandbox_ends_busy_sessions(config: SandboxConfig) -> None:
    with nothing_left():
        sandbox = Sandbox(config)
        session = await sandbox.open_session("default/alice")
        begun = asyncio.Event()
        running = asyncio.create_task(
            session.execute("print('begun')\nwhile True: pass", on_output=lambda *_: begun.set())
        )
        async with asyncio.timeout(PATIENCE):
            await begun.wait()

        await sandbox.close()

        await asyncio.wait([running])
        assert session.state == "ended"
