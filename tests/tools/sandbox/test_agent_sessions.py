"""Sessions of agents belong to one agent, work on its files, and can be interrupted."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.errors import (
    Conflict,
)
from aios_core.tools.sandbox import AgentSessions, KilledBy, Sandbox, Session
from aios_core.tools.sandbox.file_sync import FileSync, copy_changed

from .files import Files
from .session_rig import ALICE, FOREVER, PATIENCE, begun

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
