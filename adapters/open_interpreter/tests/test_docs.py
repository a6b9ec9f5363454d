"""The page about Open Interpreter is true: its programs that use this adapter run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from interpreter import interpreter

import open_interpreter_aios
from aios_core import Kernel

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "open-interpreter.md").read_text("utf-8")


def test_the_snippet_of_ours_runs(
    default: Callable[..., Kernel], capsys: pytest.CaptureFixture[str]
) -> None:
    default("It is 42.")
    (snippet,) = re.findall(r"```python\n(# after\n.*?)```", PAGE, re.DOTALL)

    try:
        exec(compile(snippet, "docs/how-to/open-interpreter.md", "exec"), {})  # noqa: S102 - our own page
    finally:
        open_interpreter_aios.detach(interpreter)
        interpreter.reset()

    assert "It is 42." in capsys.readouterr().out


def test_every_name_that_the_package_offers_is_on_the_page() -> None:
    names = [
        *open_interpreter_aios.__all__,
        *inspect.signature(open_interpreter_aios.attach).parameters,
    ]

    assert [name for name in names if name not in PAGE] == []
