"""Sessions of agents belong to one agent, work on its files, and end with it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_core import Agent, Kernel, KernelConfig, Tool, ToolContext
from aios_core.config import AccessConfig, SandboxConfig, StateConfig, ToolsConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import (
    Conflict,
    KernelClosed,
    QuotaExceeded,
    RetryLater,
    SyscallCancelled,
    ToolError,
)
from aios_core.process import ProcessTable
from aios_core.testing import Leftovers, cooperative_script
from aios_core.tools.sandbox import AgentSessions, KilledBy, Sandbox, Session
from aios_core.tools.sandbox.file_sync import FileSync, copy_changed

from .files import Files
from .probes import gone, processes_with, there

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


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
async def sessions(sandbox: Sandbox, files: Files) -> AsyncIterator[AgentSessions]:
    sessions = AgentSessions(sandbox, files, is_alive=lambda _: True)
    with no_directory_left():
        yield sessions
        await sessions.close()


async def ended(sandbox: Sandbox) -> bool:
    """Wait until no session of Alice is alive. Returns whether that happened in time."""
    patience = PATIENCE
    while sandbox.sessions(ALICE) and patience > 0:
        patience -= 0.01
        await asyncio.sleep(0.01)
    return not sandbox.sessions(ALICE)


# --- state ----------------------------------------------------------------------------------------


async def test_a_cell_finds_the_variables_of_the_session_of_its_name(
    sessions: AgentSessions,
) -> None:
    await sessions.execute(ALICE, "a", "x = 41")
    await sessions.execute(ALICE, "b", "x = 1")

    result = await sessions.execute(ALICE, "a", "x + 1")

    assert (result.value, result.notice) == ("42", None)


async def test_another_agents_session_is_not_reachable_by_its_name(
    sessions: AgentSessions,
) -> None:
    await sessions.execute(ALICE, "a", "secret = 1\nopen('/tmp/secret', 'w').write('1')")

    tried = await sessions.execute(
        "default/bob", "a", "import os; print(os.listdir('/tmp'))\nsecret"
    )

    assert tried.stdout == "[]\n"
    assert "NameError" in tried.stderr
    assert not await sessions.end("default/carol", "a")
    assert (await sessions.execute(ALICE, "a", "secret")).value == "1"


async def test_cells_of_one_session_wait_for_one_another(sessions: AgentSessions) -> None:
    await sessions.execute(ALICE, "a", "seen = []")

    await asyncio.gather(*(sessions.execute(ALICE, "a", f"seen.append({n})") for n in range(4)))

    assert (await sessions.execute(ALICE, "a", "seen")).value == "[0, 1, 2, 3]"


# --- files ----------------------------------------------------------------------------------------


async def test_what_a_cell_changes_is_in_the_storage_when_it_has_ended(
    sessions: AgentSessions, files: Files
) -> None:
    await sessions.execute(ALICE, "a", "open('out.txt', 'w').write(open('in.txt').read() + '!')")
    assert files.trees[ALICE] == {"in.txt": "hello", "out.txt": "hello!"}

    await sessions.execute(ALICE, "a", "import os; os.remove('in.txt')")
    assert files.trees[ALICE] == {"out.txt": "hello!"}


async def test_a_cell_finds_what_the_storage_has_got_since_the_last_one(
    sessions: AgentSessions, files: Files
) -> None:
    await sessions.execute(ALICE, "a", "open('mine.txt', 'w').write('1')")
    files.trees[ALICE] = {"mine.txt": "2", "new.txt": "3"}

    code = "import os; [(one, open(one).read()) for one in sorted(os.listdir())]"
    result = await sessions.execute(ALICE, "a", code)

    assert result.value == "[('mine.txt', '2'), ('new.txt', '3')]"
    assert not result.files


async def test_a_file_that_nobody_changed_stays_the_same_one(sessions: AgentSessions) -> None:
    await sessions.execute(ALICE, "a", "import os; one = os.stat('in.txt').st_ino")

    assert (await sessions.execute(ALICE, "a", "os.stat('in.txt').st_ino == one")).value == "True"


async def test_a_cell_that_changes_nothing_commits_nothing(
    sessions: AgentSessions, files: Files
) -> None:
    await sessions.execute(ALICE, "a", "x = open('in.txt').read()")

    assert files.commits == []


async def test_a_session_carries_the_labels_of_all_that_it_has_read(
    sessions: AgentSessions, files: Files
) -> None:
    await sessions.execute(ALICE, "a", "x = open('in.txt').read()", labels=frozenset({"web"}))
    files.labels = frozenset()

    result = await sessions.execute(ALICE, "a", "open('copy.txt', 'w').write(x)")

    assert result.labels == {"mail", "web"}
    assert files.commits == [(ALICE, frozenset({"mail", "web"}))]


async def test_after_a_conflict_the_storage_is_right_and_the_variables_stay(
    sessions: AgentSessions, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Conflict("in.txt was changed")

    with monkeypatch.context() as patched:
        patched.setattr(files, "commit", refuse)
        with pytest.raises(Conflict):
            await sessions.execute(ALICE, "a", "x = 1\nopen('in.txt', 'w').write('lost')")

    result = await sessions.execute(ALICE, "a", "(x, open('in.txt').read())")

    assert result.value == "(1, 'hello')"


async def test_without_a_workspace_a_session_has_its_own_files_alone(sandbox: Sandbox) -> None:
    sessions = AgentSessions(sandbox, None, is_alive=lambda _: True)

    await sessions.execute(ALICE, "a", "open('out.txt', 'w').write('1')")

    assert (await sessions.execute(ALICE, "a", "open('out.txt').read()")).value == "'1'"
    await sessions.close()


async def test_a_shell_cell_shares_the_files(sessions: AgentSessions) -> None:
    result = await sessions.execute(ALICE, "a", "cat in.txt", language="shell")

    assert result.stdout == "hello"


# --- output ---------------------------------------------------------------------------------------


async def test_output_comes_in_order_and_all_of_it_before_the_result(
    sessions: AgentSessions,
) -> None:
    seen: list[tuple[str, str]] = []
    code = "import sys\nfor n in range(50): print(n)\nprint('no', file=sys.stderr)"

    result = await sessions.execute(
        ALICE, "a", code, on_output=lambda stream, text: seen.append((stream, text))
    )

    assert "".join(text for stream, text in seen if stream == "stdout") == result.stdout
    assert "".join(text for stream, text in seen if stream == "stderr") == result.stderr == "no\n"
    assert result.stdout.split() == [str(n) for n in range(50)]


async def test_what_was_written_between_two_cells_is_heard_with_the_next(
    sessions: AgentSessions,
) -> None:
    seen: list[str] = []
    await sessions.execute(ALICE, "a", "import threading; go = threading.Event()")
    late = "t = threading.Thread(target=lambda: (go.wait(), print('late'))); t.start()"
    await sessions.execute(ALICE, "a", late)

    result = await sessions.execute(
        ALICE, "a", "go.set(); t.join()", on_output=lambda _, t: seen.append(t)
    )

    assert "".join(seen) == result.stdout == "late\n"


async def test_a_listener_that_fails_harms_nobody(sessions: AgentSessions) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    def fail(*_: object) -> None:
        raise ValueError("no")

    result = await sessions.execute(ALICE, "a", "print(1)", on_output=fail)

    assert result.stdout == "1\n"


# --- interruption ---------------------------------------------------------------------------------


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


async def test_cancelling_interrupts_the_cell_and_the_variables_stay(
    sessions: AgentSessions,
) -> None:
    running = await begun(sessions, "x = 1\nopen('kept', 'w').write('2')", FOREVER)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    result = await sessions.execute(ALICE, "a", "(x, open('kept').read())")
    assert (result.value, result.stdout, result.notice) == ("(1, '2')", "", None)
    assert result.files.written == ("kept",)


async def test_a_cell_waits_until_the_files_of_a_cancelled_one_are_left_alone(
    sessions: AgentSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, in_push, may_end = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    is_pushing: list[bool] = []
    push, settle = FileSync.push, Session.wait_idle

    def slow(sync: FileSync) -> None:
        loop.call_soon_threadsafe(in_push.set)
        assert may_end.wait(PATIENCE)
        push(sync)
        loop.call_soon_threadsafe(in_push.clear)

    def watched(source: Path, target: Path) -> None:
        is_pushing.append(in_push.is_set())
        copy_changed(source, target)

    async def settled(session: Session) -> None:
        may_end.set()
        await settle(session)

    monkeypatch.setattr(FileSync, "push", slow)
    monkeypatch.setattr("aios_core.tools.sandbox.agent_session.copy_changed", watched)
    running = asyncio.create_task(sessions.execute(ALICE, "a", "1"))
    async with asyncio.timeout(PATIENCE):
        await in_push.wait()
    running.cancel()
    monkeypatch.setattr(Session, "wait_idle", settled)

    assert (await sessions.execute(ALICE, "a", "2")).value == "2"

    assert is_pushing == [False, False]


async def test_a_cancelled_cell_that_does_not_stop_ends_the_session(
    sessions: AgentSessions,
) -> None:
    running = await begun(sessions, "import signal; signal.signal(2, signal.SIG_IGN)", FOREVER)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    result = await sessions.execute(ALICE, "a", "1")
    assert result.value == "1"
    assert "did not stop when it was interrupted" in (result.notice or "")


async def test_a_cell_that_takes_longer_than_its_limit_is_interrupted(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    await sessions.execute(ALICE, "a", "x = 1")
    brief = replace(sandbox.limits, wall_s=0.3)

    late = await sessions.execute(ALICE, "a", "while True: pass", limits=brief)

    assert late.killed_by is KilledBy.WALL
    assert (await sessions.execute(ALICE, "a", "x")).value == "1"


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["import os; os._exit(7)", "while True: print('x' * 1000)"])
async def test_a_session_that_died_says_so_and_the_next_cell_begins_anew(
    code: str, sessions: AgentSessions
) -> None:
    await sessions.execute(ALICE, "a", "x = 1")
    died = await sessions.execute(ALICE, "a", code)

    after = await sessions.execute(ALICE, "a", "open('in.txt').read() + str('x' in globals())")
    later = await sessions.execute(ALICE, "a", "1")

    assert "variables are lost" in (died.notice or "")
    assert (after.notice or "").startswith("a new session: the one before has ended (")
    assert after.value == "'helloFalse'"
    assert later.notice is None


async def test_a_session_out_of_memory_begins_anew(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    small = replace(sandbox.limits, memory_bytes=200 << 20)
    code = "import time\nkept = [bytearray(b'x' * (1 << 20)) for _ in range(250)]\ntime.sleep(100)"

    died = await sessions.execute(ALICE, "a", code, limits=small)

    assert died.killed_by is KilledBy.MEMORY
    assert "of memory" in ((await sessions.execute(ALICE, "a", "1")).notice or "")


async def test_a_session_that_ended_between_cells_begins_anew(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    await sessions.execute(ALICE, "a", "x = 1")
    await sandbox.forget(ALICE)

    result = await sessions.execute(ALICE, "a", "'x' in globals()")

    assert result.value == "False"
    assert "it was closed" in (result.notice or "")


async def test_one_that_ends_in_the_moment_before_a_cell_begins_anew(
    sandbox: Sandbox, sessions: AgentSessions, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.execute(ALICE, "a", "x = 1")
    checkout, num = files.checkout, 0

    async def late(identity: str, directory: Path) -> Files:
        nonlocal num
        num += 1
        if num == 1:
            await sandbox.forget(ALICE)
        return await checkout(identity, directory)

    monkeypatch.setattr(files, "checkout", late)

    result = await sessions.execute(ALICE, "a", "'x' in globals()")

    assert (result.value, num) == ("False", 2)
    assert "variables are lost" in (result.notice or "")


async def test_ending_a_session_leaves_nothing_of_it(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    marker = f"ended-{uuid.uuid4()}"
    sleep = f"subprocess.run(['sh', '-c', 'sleep 1000; : {marker}'])"
    running = await begun(sessions, "import subprocess", sleep)
    assert await there(marker)
    waiting = asyncio.create_task(sessions.execute(ALICE, "a", "1"))
    await asyncio.sleep(0)  # it has begun to wait

    assert await sessions.end(ALICE, "a")

    assert processes_with(marker) == []
    assert "it was closed" in (await running).notice
    with pytest.raises(SyscallCancelled, match="session 'a' was ended"):
        await waiting
    assert sandbox.sessions(ALICE) == []
    assert not await sessions.end(ALICE, "a")
    assert "NameError" in (await sessions.execute(ALICE, "a", "subprocess")).stderr


async def test_an_agent_that_exited_has_no_sessions_and_gets_none(
    sandbox: Sandbox, files: Files
) -> None:
    processes = ProcessTable()
    agent = processes.spawn("alice", now=0.0)
    sessions = AgentSessions(sandbox, files, is_alive=processes.is_alive)
    await sessions.execute(ALICE, "a", "x = 1")

    processes.remove(agent)
    sessions.forget(ALICE)

    with pytest.raises(SyscallCancelled, match="has exited"):
        await sessions.execute(ALICE, "a", "x")
    processes.spawn("alice", now=0.0)
    assert "NameError" in (await sessions.execute(ALICE, "a", "x")).stderr  # of the same identity
    await sessions.close()


async def test_closing_ends_all_and_begins_no_more(sandbox: Sandbox, files: Files) -> None:
    with no_directory_left():
        sessions = AgentSessions(sandbox, files, is_alive=lambda _: True)
        running = await begun(sessions, "", FOREVER)
        await sessions.execute("default/bob", "a", "1")

        await sessions.close()

        assert not (await running).is_ok
        with pytest.raises(KernelClosed):
            await sessions.execute(ALICE, "a", "1")
    assert sandbox.sessions(ALICE) == sandbox.sessions("default/bob") == []


# --- how many -------------------------------------------------------------------------------------


async def test_one_more_takes_the_place_of_the_one_that_was_not_used_for_longest(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    for name in ("a", "b", "a", "c"):
        await sessions.execute(ALICE, name, "kept = 1")
    assert len(sandbox.sessions(ALICE)) == 2

    assert (await sessions.execute(ALICE, "a", "kept")).notice is None
    lost = await sessions.execute(ALICE, "b", "'kept' in globals()")

    assert lost.value == "False"
    assert "replaced by another of its agent" in (lost.notice or "")


async def test_another_agents_sessions_make_no_room(
    sandbox: Sandbox, sessions: AgentSessions
) -> None:
    for identity, name in (("default/bob", "a"), (ALICE, "a"), (ALICE, "b"), (ALICE, "c")):
        await sessions.execute(identity, name, "1")

    assert len(sandbox.sessions("default/bob")) == 1


async def test_an_agent_with_as_many_busy_sessions_as_it_may_have_gets_no_more(
    sessions: AgentSessions,
) -> None:
    running = [await begun(sessions, "", FOREVER, name) for name in "ab"]

    with pytest.raises(QuotaExceeded, match="2 of 2 sessions"):
        await sessions.execute(ALICE, "c", "1")

    await sessions.end(ALICE, "a")
    assert (await sessions.execute(ALICE, "c", "1")).value == "1"
    await sessions.close()
    await asyncio.gather(*running)


async def test_all_agents_together_have_so_many_sessions_and_no_more(
    config: SandboxConfig, files: Files
) -> None:
    sandbox = Sandbox(replace(config, max_sessions=1))
    sessions = AgentSessions(sandbox, files, is_alive=lambda _: True)
    await sessions.execute(ALICE, "a", "1")

    with pytest.raises(RetryLater, match=r"tools\.sandbox\.max_sessions"):
        await sessions.execute("default/bob", "a", "1")

    await sessions.end(ALICE, "a")
    assert (await sessions.execute("default/bob", "a", "1")).value == "1"
    await sessions.close()
    await sandbox.close()


async def test_a_session_in_which_no_cell_could_begin_does_not_count(
    sandbox: Sandbox, sessions: AgentSessions, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Conflict("not now")

    with monkeypatch.context() as patched:
        patched.setattr(files, "checkout", refuse)
        with pytest.raises(Conflict):
            await sessions.execute(ALICE, "a", "1")

    assert sandbox.sessions(ALICE) == []
    assert (await sessions.execute(ALICE, "d", "1")).value == "1"


async def test_an_idle_session_ends_and_what_it_left_goes_with_the_next_one(
    config: SandboxConfig, files: Files
) -> None:
    sandbox = Sandbox(replace(config, session_idle_s=2.0))
    sessions = AgentSessions(sandbox, files, is_alive=lambda _: True)
    await sessions.execute(ALICE, "a", "x = 1")
    assert await ended(sandbox)

    await sessions.execute(ALICE, "b", "1")
    result = await sessions.execute(ALICE, "a", "'x' in globals()")

    assert result.value == "False"
    assert "it was idle for too long" in (result.notice or "")
    await sessions.close()
    await sandbox.close()


async def test_names_that_were_not_used_for_long_are_forgotten(
    sessions: AgentSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.tools.sandbox.agent_sessions._MAX_REMEMBERED", 3)
    for name in "abcd":
        await sessions.execute(ALICE, name, "1")

    assert repr(sessions) == "<AgentSessions: 3>"
    assert (await sessions.execute(ALICE, "a", "1")).notice is None  # the first is not remembered
    assert "a new session" in ((await sessions.execute(ALICE, "c", "1")).notice or "")


# --- in a kernel ----------------------------------------------------------------------------------


async def cell(code: str, context: ToolContext) -> dict[str, Any]:
    """Run a cell and return its output."""
    heard: list[str] = []
    thread = threading.get_ident()

    def hear(_: str, text: str) -> None:
        assert threading.get_ident() == thread
        heard.append(text)

    result = await context.code_runner.run_in_session(
        context.caller, "a", code, labels=context.labels, on_output=hear
    )
    return {"heard": "".join(heard), "value": result.value}


async def end(context: ToolContext) -> bool:
    """End the session."""
    return await context.code_runner.end_session(context.caller, "a")


TOOLS = [
    Tool("cell", "", {"properties": {"code": {}}}, cell, context_name="context"),
    Tool("end", "", {}, end, context_name="context"),
]


@pytest.fixture
async def kernel(config: SandboxConfig) -> AsyncIterator[Kernel]:
    settings = KernelConfig(
        state=StateConfig(directory=":memory:"),
        access=AccessConfig(approver="allow"),
        tools=ToolsConfig(plugins=(), sandbox=config),
        drain_s=0.0,
    )
    before = Leftovers.now().children
    with no_directory_left():
        async with Kernel(settings, cores=[ScriptedCore(cooperative_script)]) as kernel:
            yield kernel
        assert not Leftovers.now().children - before


async def alice(kernel: Kernel) -> Agent:
    agent = await kernel.aspawn("alice")
    for tool in TOOLS:
        await agent.tools.aoffer(tool)
    return agent


async def run(agent: Agent, code: str) -> Any:
    return await agent.tools.arun("cell", {"code": code})


async def test_a_tool_runs_cells_in_a_session_of_its_caller(kernel: Kernel) -> None:
    agent = await alice(kernel)
    await agent.storage.acreate("in.txt", b"hello")

    first = await run(agent, "x = open('in.txt').read(); print('read')")
    second = await run(agent, "open('out.txt', 'w').write(x.upper())")

    assert first == {"heard": "read\n", "value": None}
    assert second["value"] == "5"
    assert await agent.storage.aread("out.txt") == b"HELLO"


async def test_output_reaches_a_tool_while_the_kernels_loop_is_busy(kernel: Kernel) -> None:
    agent = await kernel.aspawn("alice")
    began, loop, came = asyncio.Event(), asyncio.get_running_loop(), threading.Event()

    def hear(_: str, text: str) -> None:
        if "1" in text:
            loop.call_soon_threadsafe(began.set)
        if "2" in text:
            came.set()

    async def count(context: ToolContext) -> None:
        code = "import time; print(1); time.sleep(0.3); print(2)"
        await context.code_runner.run_in_session(context.caller, "a", code, on_output=hear)

    await agent.tools.aoffer(Tool("count", "", {}, count, context_name="context"))
    running = asyncio.create_task(agent.tools.arun("count"))
    async with asyncio.timeout(PATIENCE):
        await began.wait()

    assert came.wait(PATIENCE)  # this is the kernel's loop

    await running


async def test_a_tool_can_end_the_session(kernel: Kernel) -> None:
    agent = await alice(kernel)
    await run(agent, "x = 1")

    assert await agent.tools.arun("end") is True
    assert await agent.tools.arun("end") is False
    assert (await run(agent, "'x' in globals()"))["value"] == "False"


async def test_the_next_agent_of_the_same_identity_finds_no_session(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"exits-{uuid.uuid4()}"
    await run(agent, f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 999; : {marker}'])")
    assert await there(marker)

    await kernel.aexit(agent.pid)
    another = await alice(kernel)

    assert another.identity == agent.identity
    assert (await run(another, "'subprocess' in globals()"))["value"] == "False"
    assert await gone(marker)


async def test_a_call_that_is_cancelled_interrupts_its_cell(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"cancelled-{uuid.uuid4()}"
    code = f"import subprocess\nx = 1\nsubprocess.run(['sh', '-c', 'sleep 999; : {marker}'])"
    running = asyncio.create_task(run(agent, code))
    assert await there(marker)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert await gone(marker)
    assert (await run(agent, "x"))["value"] == "1"


async def test_a_busy_session_ends_with_the_kernel(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"closed-{uuid.uuid4()}"
    code = f"import subprocess\nsubprocess.run(['sh', '-c', 'sleep 999; : {marker}'])"
    running = asyncio.create_task(run(agent, code))
    assert await there(marker)

    await kernel.aclose(0)

    with pytest.raises((KernelClosed, SyscallCancelled)):
        await running
    assert processes_with(marker) == []


async def run_once(code: str, context: ToolContext) -> str:
    """Run code on the caller's files."""
    result = await context.code_runner.run_for(context.caller, "python", code)
    if result.exit_code:
        raise ToolError("run_once", result.stderr)
    return result.stdout


RUN_ONCE = Tool("run_once", "", {"properties": {"code": {}}}, run_once, trusted=True,
                context_name="context")  # fmt: skip


async def heir_of_a_stranger(kernel: Kernel) -> Agent:
    """Make an agent that has read nothing yet, with a file that carries a label of the web."""
    first = await kernel.aspawn("alice")
    kernel.processes.mark(first.identity, frozenset({"tool:web"}))
    await first.storage.acreate("in.txt", b"evil")
    await kernel.aexit(first.pid)
    second = await kernel.aspawn("alice")
    await second.tools.aoffer(replace(TOOLS[0], trusted=True))
    await second.tools.aoffer(RUN_ONCE)
    assert kernel.processes.get(second.pid).labels == set()
    return second


@pytest.mark.parametrize("tool", ["cell", "run_once"])
async def test_code_marks_its_caller_with_the_files_that_it_could_read(
    kernel: Kernel, tool: str
) -> None:
    agent = await heir_of_a_stranger(kernel)

    await agent.tools.arun(tool, {"code": "print(open('in.txt').read())"})

    assert kernel.processes.get(agent.pid).labels == {"tool:web"}


async def test_code_that_fails_marks_its_caller_too(kernel: Kernel) -> None:
    agent = await heir_of_a_stranger(kernel)

    with pytest.raises(ToolError, match="evil"):
        await agent.tools.arun("run_once", {"code": "raise OSError(open('in.txt').read())"})

    assert kernel.processes.get(agent.pid).labels == {"tool:web"}


async def test_an_outcome_that_is_asked_for_again_brings_its_labels_back(kernel: Kernel) -> None:
    agent = await heir_of_a_stranger(kernel)
    arguments = {"code": "print(open('in.txt').read())"}
    await agent.tools.arun("run_once", arguments, idempotency_key="k")
    await kernel.aexit(agent.pid)
    await (again := await kernel.aspawn("alice")).tools.aoffer(RUN_ONCE)

    assert await again.tools.arun("run_once", arguments, idempotency_key="k") == "evil\n"
    assert kernel.processes.get(again.pid).labels == {"tool:web"}
