"""An agent that is frozen in the middle of an answer and continues in another process."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import model
import screen
import world
from elsewhere import BILL, INVOICE
from kernel import make_kernel

from aios_core import Agent, ToolInDoubt

WORDS_BEFORE = 12


def freeze_and_move(assistant: Agent, directory: Path) -> None:
    """Save the assistant in the middle of its answer, and let two processes finish it."""
    stream = assistant.llm.stream(model.REPORT)
    begun = "".join(delta.text for delta in islice(stream, WORDS_BEFORE))
    assistant.save(directory / "assistant")  # which freezes it
    screen.line("here", begun.strip() + " ...")
    assistant.thaw()
    for _ in stream:
        pass
    there = _run_elsewhere("continue", str(directory / "assistant"), str(directory / "elsewhere"))
    if not there.strip():
        screen.line("there", "nothing is left to do: this core ends an answer before it stops")
        return
    screen.line("there", "... " + there[len(begun) :].strip())
    is_equal = there.strip() == stream.completion.text.strip()
    screen.line("kernel", f"both processes wrote {'the same text' if is_equal else 'other texts'}")


def lose_power(directory: Path) -> None:
    """Kill a process while it pays, and show that nothing is paid twice."""
    state = str(directory / "after-the-cut")
    _run_elsewhere("pay", state, TRIP_POWER_CUT="1")
    screen.line("there", "the process is killed while it pays the hotel")
    with make_kernel(state) as kernel:
        kernel.load_tools(world.pay)
        assistant = kernel.spawn("assistant", group="assistant")
        try:
            assistant.tools.run("pay", BILL, idempotency_key=INVOICE)
        except ToolInDoubt as error:
            screen.line("here", f"a second try is refused: {error}")


def _run_elsewhere(*arguments: str, **environment: str) -> str:
    """Run `elsewhere.py` in a second process. Returns what it printed."""
    return subprocess.run(  # noqa: S603 - our own file
        [sys.executable, str(Path(__file__).with_name("elsewhere.py")), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
