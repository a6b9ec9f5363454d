"""Its code through the kernel's `tool_run`: in the sandbox, approved, or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreter import OpenInterpreter

from aios_core import Kernel, ToolContext
from aios_core.config import SandboxConfig
from aios_core.errors import ApprovalRefused, InvalidRequest, SandboxUnavailable
from aios_core.testing.event_watcher import TIMEOUT_S, EventWatcher
from open_interpreter_aios import attach, detach
from open_interpreter_aios.code_block import CodeBlockRun

from .conftest import Boot, OnOutput, Runner
from .programs import coder, told

STOPPED = "KeyboardInterrupt: the code was stopped"


def chat(interpreter: Any) -> list[tuple[str, str, str]]:
    return told(interpreter.chat("go", display=False))


def test_code_runs_for_the_agent_and_the_model_is_told(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, agent="ann", kernel=boot(coder("x = 6 * 7\nprint(x)")))

    assert chat(interpreter) == [
        ("assistant", "code", "x = 6 * 7\nprint(x)"),
        ("computer", "console", "42"),
        ("assistant", "message", "It said: 42"),
    ]
    assert runner.ran == [("default/ann", "python")]


async def test_an_event_loop_that_runs_already_as_in_a_notebook_is_no_hindrance(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, agent="ann", kernel=boot(coder("print(42)")))

    assert chat(interpreter)[-1] == ("assistant", "message", "It said: 42")
    assert len(runner.ran) == 1


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("1 + 1", "2"),
        ("x = 'a'\nx * 2", "'aa'"),
        ("print(3)", "3"),
        ("def f():\n    return 4\nf()", "4"),
        ("", ""),
    ],
)
def test_the_value_of_the_last_expression_is_shown(
    code: str, output: str, boot: Boot, interpreter: Any, runner: Runner
) -> None:
    del runner
    attach(interpreter, kernel=boot())

    (said,) = interpreter.computer.run("python", code)

    assert said["content"].strip() == output


def test_a_refused_approval_ends_the_turn_with_a_clear_message(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot(coder("print(1)"), approver="deny")
    attach(interpreter, agent="ann", kernel=kernel)

    *_, (role, kind, content) = chat(interpreter)

    assert (role, kind) == ("computer", "console")
    assert content.startswith("ApprovalRefused: ")
    assert "may not tool.run" in content
    assert runner.ran == []
    (core,) = kernel.pool
    assert len(core.requests) == 1  # type: ignore[attr-defined] # the model is not asked again


def test_setting_auto_run_is_no_way_round_the_kernels_approver(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    interpreter.auto_run = True
    attach(interpreter, kernel=boot(coder("print(1)"), approver="deny"))
    interpreter.auto_run = True

    assert "ApprovalRefused" in chat(interpreter)[-1][2]
    assert runner.ran == []


def test_without_a_sandbox_code_is_not_run_and_the_reason_says_what_to_do(
    boot: Boot, interpreter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"

    def nowhere(_: ToolContext) -> Any:
        raise SandboxUnavailable("nothing confines code here; to fix it: install bubblewrap")

    monkeypatch.setattr(ToolContext, "code_runner", property(nowhere))
    attach(interpreter, kernel=boot(coder(f"open({str(mark)!r}, 'w')")))

    with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
        interpreter.chat("go", display=False)

    assert not mark.exists()
    assert "install bubblewrap" in interpreter.messages[-1]["content"]
    monkeypatch.undo()
    kernel = boot("hello")
    attach(interpreter, kernel=kernel)
    assert chat(interpreter) == [("assistant", "message", "hello")]  # talking works


@pytest.mark.parametrize("code", ["apt install nothing-of-that-name", "sudo ls"])
def test_no_command_is_run_past_the_kernel(
    code: str, boot: Boot, interpreter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr("subprocess.run", lambda *arguments, **_: ran.append(arguments))
    attach(interpreter, kernel=boot(approver="deny"))

    with pytest.raises(ApprovalRefused):
        interpreter.computer.run("shell", code)

    assert ran == []


def test_a_template_in_the_system_message_runs_in_the_sandbox_too(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot("ok")
    attach(interpreter, agent="ann", kernel=kernel)
    interpreter.system_message = "It is {{ print(40 + 2) }}."

    chat(interpreter)

    (core,) = kernel.pool
    system = core.requests[-1].messages[0].content  # type: ignore[attr-defined]
    assert system.startswith("It is 42")
    assert runner.ran == [("default/ann", "python")]


def test_a_language_that_the_sandbox_does_not_run_is_told_to_the_model(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, kernel=boot(coder("puts 1", "ruby")))

    said = chat(interpreter)

    assert said[1] == ("computer", "console", "`ruby` disabled or not supported.")
    assert runner.ran == []


def test_a_program_may_leave_languages_away_but_not_add_some(
    kernel: Kernel, interpreter: Any
) -> None:
    attach(interpreter, kernel=kernel)
    computer = interpreter.computer

    computer.languages = [one for one in computer.languages if one.name == "Python"]
    with pytest.raises(InvalidRequest, match=r"'Ruby'.*Python.*detach"):
        computer.languages = [type("Ruby", (), {"name": "Ruby"})]

    assert [one.name for one in computer.terminal.languages] == ["Python"]
    assert computer.terminal.get_language("bash") is None


# --- the session ----------------------------------------------------------------------------------


def say(interpreter: Any, code: str, language: str = "python") -> str:
    """Run a code block. Returns its output."""
    (said,) = interpreter.computer.run(language, code)
    return str(said["content"])


def test_a_block_of_python_finds_the_variables_of_the_one_before(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attachment = attach(interpreter, agent="ann", kernel=boot())

    say(interpreter, "x = 41")

    assert say(interpreter, "x + 1") == "42\n"
    assert list(runner.sessions) == [("default/ann", f"open_interpreter/{attachment.conversation}")]


def test_another_conversation_has_other_variables(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot()
    attach(interpreter, agent="ann", kernel=kernel)
    say(interpreter, "x = 41")
    another = OpenInterpreter(system_message="")
    attach(another, agent="ann", kernel=kernel)

    assert "NameError" in say(another, "x")
    assert len(runner.sessions) == 2


@pytest.mark.parametrize("end", [lambda one: one.reset(), detach])
def test_reset_and_detach_end_the_session(
    end: Callable[[Any], None], boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, agent="ann", kernel=boot())
    say(interpreter, "x = 41")

    end(interpreter)

    assert runner.sessions == {}


def test_a_reset_interpreter_begins_a_session_anew(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, agent="ann", kernel=boot())
    say(interpreter, "x = 41")
    interpreter.reset()

    assert "NameError" in say(interpreter, "x")
    assert len(runner.sessions) == 1


def test_an_interpreter_that_ran_nothing_asks_nothing_of_the_kernel_when_it_is_reset(
    boot: Boot, interpreter: Any, watch: EventWatcher
) -> None:
    attach(interpreter, agent="ann", kernel=boot())

    interpreter.reset()
    detach(interpreter)

    assert (watch.callers(), watch.names()) == ([], {})


def test_detaching_after_the_kernel_has_closed_is_no_error(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot()
    attach(interpreter, agent="ann", kernel=kernel)
    say(interpreter, "x = 1")
    kernel.close(0)

    detach(interpreter)

    assert len(runner.ran) == 1


def test_a_notice_of_the_sandbox_is_on_a_line_of_its_own(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, kernel=boot())
    runner.notice = "a new session"

    assert say(interpreter, "print('a', end='')") == "a\na new session\n"


# --- while it runs --------------------------------------------------------------------------------


class Stuck(Runner):
    """A runner that reports its start, and then runs until it is interrupted."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.interrupted = threading.Event()

    async def run_in_session(self, *_: str, on_output: OnOutput, **__: Any) -> Any:
        on_output("stdout", "begun\n")
        try:
            await asyncio.Event().wait()
        finally:
            self.interrupted.set()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stuck:
    stuck = Stuck(tmp_path)
    monkeypatch.setattr(ToolContext, "code_runner", property(lambda _: stuck))
    return stuck


def until_begun(interpreter: Any) -> Any:
    """Start a turn, and read its stream until the first output of its code."""
    stream = interpreter.chat("go", display=False, stream=True)
    for chunk in stream:
        if chunk.get("content") == "begun\n":
            return stream
    raise AssertionError("no output came")


def test_output_comes_while_the_code_runs_and_another_thread_can_stop_it(
    boot: Boot, interpreter: Any, stuck: Stuck
) -> None:
    attachment = attach(interpreter, kernel=boot(coder("wait()")))
    stream = until_begun(interpreter)

    thread = threading.Thread(target=attachment.stop)
    thread.start()
    said = [chunk["content"] for chunk in stream if "content" in chunk]
    thread.join(TIMEOUT_S)

    assert said[0] == STOPPED + "\n"
    assert "".join(filter(None, said[1:])) == f"It said: begun\n{STOPPED}"
    assert stuck.interrupted.wait(TIMEOUT_S)


def test_closing_the_stream_interrupts_the_code_and_ends_the_turn(
    boot: Boot, interpreter: Any, stuck: Stuck
) -> None:
    kernel = boot(coder("wait()"))
    attach(interpreter, kernel=kernel)
    stream = until_begun(interpreter)

    thread = threading.Thread(target=stream.close)
    thread.start()

    assert stuck.interrupted.wait(TIMEOUT_S)
    thread.join(TIMEOUT_S)
    assert interpreter.messages[-1]["content"] == f"begun\n{STOPPED}\n"
    (core,) = kernel.pool
    assert len(core.requests) == 1  # type: ignore[attr-defined] # the model is not asked again


def test_a_block_that_is_left_is_interrupted(boot: Boot, interpreter: Any, stuck: Stuck) -> None:
    attach(interpreter, kernel=boot())
    pieces = interpreter.computer.run("python", "wait()", stream=True)
    assert next(pieces)["content"] == "begun\n"

    thread = threading.Thread(target=pieces.close)
    thread.start()

    assert stuck.interrupted.wait(TIMEOUT_S)
    thread.join(TIMEOUT_S)


def test_ctrl_c_interrupts_the_code_and_ends_the_turn(
    boot: Boot, interpreter: Any, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = boot(coder("wait()"))
    attach(interpreter, kernel=kernel)
    theirs = CodeBlockRun.__iter__

    def interrupted(block: CodeBlockRun) -> Iterator[str]:
        yield next(theirs(block))
        raise KeyboardInterrupt

    monkeypatch.setattr(CodeBlockRun, "__iter__", interrupted)

    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.extend(chat(interpreter)))
    thread.start()

    assert stuck.interrupted.wait(TIMEOUT_S)
    thread.join(TIMEOUT_S)
    assert said[-1] == ("computer", "console", "begun")
    (core,) = kernel.pool
    assert len(core.requests) == 1  # type: ignore[attr-defined]


def test_a_block_that_was_stopped_before_it_began_does_not_run(
    boot: Boot, interpreter: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(interpreter, kernel=boot())
    run = CodeBlockRun.run

    def stopped(block: CodeBlockRun, work: Any) -> None:
        block.stop()
        run(block, work)

    monkeypatch.setattr(CodeBlockRun, "run", stopped)

    assert say(interpreter, "print(1)") == STOPPED + "\n"
    assert runner.ran == []


def test_two_interpreters_of_one_agent_hear_their_own_code(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel, another = boot(), OpenInterpreter(system_message="")
    for one in (interpreter, another):
        attach(one, agent="ann", conversation="shared", kernel=kernel)
    first = interpreter.computer.run("python", "print('first\\n', end='')", stream=True)
    second = another.computer.run("python", "print('second\\n', end='')", stream=True)

    assert next(first)["content"] == "first\n"
    assert next(second)["content"] == "second\n"
    assert [*first, *second] == []
    assert len(runner.sessions) == 1


def test_code_that_takes_too_long_is_killed_and_the_model_goes_on(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot(coder("import time; time.sleep(3600)"))
    attach(interpreter, kernel=kernel, timeout_s=2.0)

    said = chat(interpreter)

    assert said[1][2].startswith("DeadlineExceeded: no answer within 2 s")
    assert said[2][2].startswith("It said: DeadlineExceeded")
    assert len(runner.ran) == 1


@pytest.fixture
def has_sandbox() -> None:
    from aios_core.tools.sandbox import probe_backends  # noqa: PLC0415 - this fixture alone looks

    ((_, found),) = probe_backends(SandboxConfig()).values()
    if not found.is_available:
        pytest.skip(f"no sandbox here: {found.reason}; {found.fix}")


@pytest.mark.usefixtures("has_sandbox")
def test_code_runs_in_the_real_sandbox_and_its_files_stay(
    boot: Boot, interpreter: Any, tmp_path: Path
) -> None:
    kernel = boot()
    agent = kernel.spawn("ann")
    attach(interpreter, agent=agent)
    secret = tmp_path / "secret"
    secret.write_text("of the host")

    interpreter.computer.run("python", "open('note.txt', 'w').write('kept')")
    (read,) = interpreter.computer.run("shell", "cat note.txt")
    (tried,) = interpreter.computer.run("python", f"open({str(secret)!r}).read()")

    assert read["content"] == "kept"
    assert agent.storage.read("note.txt") == b"kept"
    assert "FileNotFoundError" in tried["content"]


@pytest.mark.usefixtures("has_sandbox")
def test_a_session_in_the_real_sandbox_streams_keeps_variables_and_survives_a_stop(
    boot: Boot, interpreter: Any
) -> None:
    agent = boot().spawn("ann")
    attachment = attach(interpreter, agent=agent)
    code = "open('n.txt', 'w').write('7'); x = 41\nprint('begun\\n', end='')\nwhile True: pass"
    pieces = interpreter.computer.run("python", code, stream=True)
    assert next(pieces)["content"] == "begun\n"

    attachment.stop()

    assert [one["content"] for one in pieces] == [STOPPED + "\n"]
    assert say(interpreter, "x + 1") == "42\n"
    assert agent.storage.read("n.txt") == b"7"
    said = say(interpreter, "a = 1\na / 0")
    assert "line 2" in said
    assert said.endswith("ZeroDivisionError: division by zero\n")
    interpreter.reset()
    assert "NameError" in say(interpreter, "x")
