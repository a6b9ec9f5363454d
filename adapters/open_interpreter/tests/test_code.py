"""Its code through the kernel's `tool_run`: in the sandbox, approved, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, ToolContext
from aios_core.config import SandboxConfig
from aios_core.errors import ApprovalRefused, InvalidRequest, SandboxUnavailable
from aios_core.testing.watch import PATIENCE
from open_interpreter_aios import attach
from open_interpreter_aios.code import as_cell

from .conftest import Boot, Runner
from .programs import coder, told


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
        ('\'{}\' + """a\nb"""', "'{}a\\nb'"),
    ],
)
def test_the_value_of_the_last_expression_is_shown(
    code: str, output: str, boot: Boot, interpreter: Any, runner: Runner
) -> None:
    del runner
    attach(interpreter, kernel=boot())

    (said,) = interpreter.computer.run("python", code)

    assert said["content"].strip() == output


def test_a_traceback_names_the_line_of_the_code(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    del runner
    attach(interpreter, kernel=boot())

    (said,) = interpreter.computer.run("python", "a = 1\na / 0")

    assert "line 2" in said["content"]
    assert "a / 0" in said["content"]
    assert said["content"].strip().endswith("ZeroDivisionError: division by zero")


def test_a_cell_cannot_be_broken_by_what_it_holds() -> None:
    compile(as_cell("'''\"\"\"\\\n{x!r}\\u00e9\x00"), "cell", "exec")


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
        raise SandboxUnavailable("nothing confines code here; to get it: install bubblewrap")

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


def test_another_thread_can_stop_code_that_runs(
    boot: Boot, interpreter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner()
    begun = threading.Event()

    def running(_: ToolContext) -> Runner:
        begun.set()
        return runner

    monkeypatch.setattr(ToolContext, "code_runner", property(running))
    attachment = attach(interpreter, kernel=boot(coder("import time; time.sleep(3600)")))
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.extend(chat(interpreter)))

    thread.start()
    assert begun.wait(PATIENCE)
    attachment.stop()
    thread.join(PATIENCE)

    assert said[1] == ("computer", "console", "KeyboardInterrupt: the code was stopped")
    assert said[2][2] == "It said: KeyboardInterrupt: the code was stopped"


def test_code_that_takes_too_long_is_killed_and_the_model_goes_on(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot(coder("import time; time.sleep(3600)"))
    attach(interpreter, kernel=kernel, timeout_s=0.2)

    said = chat(interpreter)

    assert said[1][2].startswith("DeadlineExceeded: no answer within 0.2 s")
    assert said[2][2].startswith("It said: DeadlineExceeded")
    assert len(runner.ran) == 1


@pytest.fixture
def has_sandbox() -> None:
    from aios_core.tools.sandbox import survey  # noqa: PLC0415 - this fixture alone looks

    ((_, found),) = survey(SandboxConfig()).values()
    if not found.is_there:
        pytest.skip(f"no sandbox here: {found.said}; {found.mend}")


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
