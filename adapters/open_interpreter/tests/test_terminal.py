"""The kernel's question is seen and answered in the terminal where Open Interpreter draws."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from .at_terminal import Terminal, program_at_terminal

QUESTION = "Allow this once? [y/N] "
# The sandbox is not needed for it: the question comes first.
SCRIPT = """\
import json

from aios_core import Kernel, ToolCall, ToolContext, set_default_kernel
from aios_core.cores import ScriptedCore


class Runner:
    async def run_in_session(self, *arguments, on_output, **_):
        on_output("stdout", "forty-two")
        return type("Result", (), {"value": None, "notice": None, "exit_code": 0, "figures": ()})


ToolContext.code_runner = property(lambda _: Runner())


def answer(request):
    if request.messages[-1].role == "tool":
        return "It said: " + request.messages[-1].content.strip()
    code = "\\n".join(f"x = {number}" for number in range(NUM_LINES))
    return [ToolCall("call_1", "execute", json.dumps({"language": "python", "code": code}))]


set_default_kernel(Kernel(cores=[ScriptedCore(answer)]).start())

from interpreter import interpreter

CHAT
print("THE END:", interpreter.messages[-1]["content"])
"""

QUIET = {"AIOS_QUIET": "1", "AIOS_STATE__DIRECTORY": ":memory:", "TERM": "xterm"}

At = Callable[..., AbstractContextManager[Terminal]]


def script(num_lines: int, chat: str = 'interpreter.chat("go")') -> str:
    """A program that has code of so many lines run."""
    return SCRIPT.replace("NUM_LINES", str(num_lines)).replace("CHAT", chat)


@pytest.fixture
def at_terminal(tmp_path: Path) -> At:
    """Run the script under `aios run`, at a terminal."""

    def run(num_lines: int = 2, **kwargs: str) -> AbstractContextManager[Terminal]:
        (tmp_path / "script.py").write_text(script(num_lines, **kwargs))
        return program_at_terminal(
            *("-W", "ignore", "-m", "aios_core.cli", "run", "script.py"),
            cwd=tmp_path,
            environ=os.environ | QUIET,
        )

    return run


def test_a_yes_lets_the_code_run_and_the_question_stays_on_the_screen(at_terminal: At) -> None:
    with at_terminal() as terminal:
        terminal.sees(QUESTION)
        terminal.types("y\n")
        assert terminal.ends() == 0

    shown = str(terminal.screen)
    assert f"{QUESTION}y" in shown
    assert "tool.run tool:default/interpreter:interpreter_run_code" in shown
    assert "THE END: It said: forty-two" in shown
    assert "  forty-two" in shown  # Open Interpreter continues to draw, below the question
    assert shown.index(QUESTION) < shown.index("  forty-two")


def test_a_no_ends_the_turn_and_says_who_said_so(at_terminal: At) -> None:
    with at_terminal() as terminal:
        terminal.sees(QUESTION)
        terminal.types("n\n")
        assert terminal.ends() == 0

    shown = str(terminal.screen)
    assert f"{QUESTION}n" in shown
    assert "at the terminal refused" in shown
    assert "forty-two" not in shown


def test_ctrl_c_at_the_question_ends_the_turn_and_the_program_goes_on(at_terminal: At) -> None:
    with at_terminal() as terminal:
        terminal.sees(QUESTION)
        terminal.types("\x03")
        assert terminal.ends() == 0

    shown = str(terminal.screen)
    assert QUESTION in shown
    assert "(no longer asked)" in shown
    assert "THE END" in shown
    assert "forty-two" not in shown


def test_code_that_is_longer_than_the_screen_hides_no_question(at_terminal: At) -> None:
    with at_terminal(num_lines=100) as terminal:
        terminal.sees(QUESTION)
        last = terminal.screen.lines[-1]
        terminal.types("y\n")
        assert terminal.ends() == 0

    assert last == QUESTION  # the cursor waits behind it
    assert f"{QUESTION}y" in str(terminal.screen)


def test_a_conversation_at_the_terminal_goes_on_after_the_question(at_terminal: At) -> None:
    with at_terminal(chat="interpreter.chat()") as terminal:
        terminal.sees("> ")
        terminal.types("go\n")
        terminal.sees(QUESTION)
        terminal.types("y\n")
        terminal.sees("It said: forty-two")

    shown = str(terminal.screen)
    assert f"{QUESTION}y" in shown
    assert shown.index("> go") < shown.index(QUESTION) < shown.index("  forty-two")


def test_without_a_terminal_the_approver_of_that_name_refuses_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.py").write_text(script(2))

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "aios_core.cli", "run", "script.py"],
        env=os.environ | QUIET | {"AIOS_ACCESS__APPROVER": "terminal"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "standard input is not a terminal" in done.stdout
    assert "aios approvals" in done.stdout
