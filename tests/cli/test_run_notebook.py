"""`aios run` of a notebook: as Jupyter would run it, and nothing stays behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_core.cli import main

pytest.importorskip("IPython")

Capture = pytest.CaptureFixture[str]
Notebook = Callable[..., str]


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", ":memory:")
    monkeypatch.setenv("AIOS_QUIET", "1")
    monkeypatch.setattr("aios_core.launch.launcher.entry_points", lambda group: [])  # noqa: ARG005

    def write(*cells: str) -> str:
        told = [{"cell_type": "markdown", "source": "# a title"}]
        told += [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]  # type: ignore[dict-item]
        Path("agents.ipynb").write_text(json.dumps({"nbformat": 4, "cells": told}))
        return "agents.ipynb"

    return write


def test_cells_share_their_names_and_show_their_last_value(
    notebook: Notebook, capsys: Capture
) -> None:
    name = notebook("import sys\nprint(__name__, sys.argv)", "n = 6", "n * 7")

    assert main(["run", name, "x"]) == 0
    assert capsys.readouterr().out == "__main__ ['agents.ipynb', 'x']\nOut[3]: 42\n"


def test_a_cell_may_await_and_call_the_kernel_both_ways(
    notebook: Notebook, capsys: Capture
) -> None:
    name = notebook(
        "from aios_core import default_kernel\nagent = default_kernel().spawn('a')",
        "print(bool(await agent.llm.agenerate('hello', max_tokens=4)))",
        "async def nested():\n    return agent.llm.generate('hello', max_tokens=4)",
        "print(bool(await nested()))  # blocks in a running loop",
    )

    assert main(["run", name]) == 0
    assert capsys.readouterr().out == "True\nTrue\n"


def test_the_first_cell_that_fails_ends_it(notebook: Notebook, capsys: Capture) -> None:
    name = notebook("print('one')", "1 / 0", "print('three')")

    assert main(["run", name]) == 1
    said = capsys.readouterr().out
    assert said.startswith("one\n")
    assert "ZeroDivisionError" in said
    assert "three" not in said


@pytest.mark.parametrize(("code", "status"), [("3", 3), ("", 0), ("'no'", 1)])
def test_the_exit_status_is_the_notebooks(code: str, status: int, notebook: Notebook) -> None:
    assert main(["run", notebook(f"import sys\nsys.exit({code})", "1 / 0")]) == status


def test_ctrl_c_ends_it(notebook: Notebook, capsys: Capture) -> None:
    assert main(["run", notebook("raise KeyboardInterrupt", "print('on')")]) == 130
    assert "on" not in capsys.readouterr().out.split()


def test_nothing_stays_behind(notebook: Notebook, tmp_path: Path) -> None:
    before = sys.displayhook, sys.excepthook, sys.modules["__main__"], sys.argv, sys.path[:]

    assert main(["run", notebook("x = 1")]) == 0

    assert before == (
        sys.displayhook, sys.excepthook, sys.modules["__main__"], sys.argv, sys.path
    )  # fmt: skip
    assert not (tmp_path / "home").exists()


def test_what_is_no_notebook_is_one_line(notebook: Notebook, capsys: Capture) -> None:
    name = notebook()
    Path(name).write_text("print('a script')")

    assert main(["run", name]) == 1
    assert "is not a notebook of format 4 or newer" in capsys.readouterr().err


def test_without_ipython_it_says_what_to_install(
    notebook: Notebook, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython.core.interactiveshell", None)

    assert main(["run", notebook("1")]) == 1
    assert "pip install 'aios-kernel[notebook]'" in capsys.readouterr().err
