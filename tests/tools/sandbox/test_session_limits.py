"""Sessions end, and are limited in number."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.config import SandboxConfig
from aios_core.errors import (
    Conflict,
    KernelClosed,
    QuotaExceeded,
    RetryLater,
    SyscallCancelled,
)
from aios_core.process import ProcessTable
from aios_core.tools.sandbox import AgentSessions, KilledBy, Sandbox

from .files import Files
from .probes import processes_with, there
from .session_rig import ALICE, FOREVER, PATIENCE, begun, no_directory_left


async def ended(sandbox: Sandbox) -> bool:
    """Wait until no session of Alice is alive. Returns whether that happened in time."""
    patience = PATIENCE
    while sandbox.sessions(ALICE) and patience > 0:
        patience -= 0.01
        await asyncio.sleep(0.01)
    return not sandbox.sessions(ALICE)


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
