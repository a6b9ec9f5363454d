"""The adapter of Open Interpreter on a real model, the bundled `tiny`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreter import OpenInterpreter

from aios_core import Kernel, KernelConfig
from aios_core.config import AccessConfig
from aios_core.errors import InvalidRequest
from open_interpreter_aios import attach

from .conftest import Runner
from .programs import told

EXAMPLES = Path(__file__).parents[3] / "examples" / "open_interpreter"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    config = KernelConfig(
        cores=({"kind": "tiny"},),  # type: ignore[arg-type]
        state={"directory": ":memory:"},  # type: ignore[arg-type]
        access=AccessConfig(approver="allow"),
    )
    with Kernel(config) as kernel:
        yield kernel
        kernel.check()


def test_the_model_runs_code_and_tells_what_came_of_it(
    kernel: Kernel, interpreter: Any, runner: Runner
) -> None:
    attach(interpreter, agent="ann", kernel=kernel)

    said = told(interpreter.chat("what is 123 times 45?", display=False))

    assert said == [
        ("assistant", "code", "print(123 * 45)"),
        ("computer", "console", "5535"),
        ("assistant", "message", "The output is: 5535"),
    ]
    assert runner.ran == [("default/ann", "python")]


def test_a_streamed_answer_is_the_whole_one(kernel: Kernel, interpreter: Any) -> None:
    attach(interpreter, kernel=kernel)

    pieces = [
        chunk["content"]
        for chunk in interpreter.chat("hello", display=False, stream=True)
        if "content" in chunk
    ]

    assert len(pieces) > 1
    assert "".join(pieces) == interpreter.messages[-1]["content"]


def test_an_image_is_refused_by_the_name_of_its_kind(kernel: Kernel, interpreter: Any) -> None:
    attach(interpreter, kernel=kernel)
    image = {"role": "user", "type": "image", "format": "base64.png", "content": "aGk="}

    with pytest.raises(InvalidRequest, match="cannot take an image part"):
        interpreter.chat(image, display=False)


def test_open_interpreters_own_system_message_leaves_room(kernel: Kernel, runner: Runner) -> None:
    del runner
    interpreter = OpenInterpreter()
    attach(interpreter, kernel=kernel)

    for _ in range(4):
        said = interpreter.chat("hello", display=False)

    assert said
    assert all(one["content"] for one in said)


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "hello.py"],
        env=os.environ | {"AIOS_QUIET": "1", "XDG_STATE_HOME": str(tmp_path)},
        cwd=EXAMPLES,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "ann remembers" in done.stdout
    assert "The output is: 5535" in done.stdout or "install bubblewrap" in done.stdout
