"""The code stays small enough to read: files, functions, and the tour of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_TOUR_LINES = 4_500

PACKAGES = (
    "aios_core",
    "adapters/common/aios_adapters",
    "adapters/autogen/autogen_aios",
    "adapters/langchain/langchain_aios",
    "adapters/llamaindex/llama_index_aios",
    "adapters/open_interpreter/open_interpreter_aios",
    "plugins/aios_plugins",
    "compat_bench",
    "scripts",
)
BOXES = ("scheduler", "cores", "context", "memory", "storage", "tools", "access")


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def num_lines(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("\n")


def files_of_tests() -> Iterator[Path]:
    for folder in (ROOT / "tests", *ROOT.glob("adapters/*/tests"), ROOT / "plugins/tests"):
        yield from sorted(folder.rglob("*.py"))


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(file.relative_to(ROOT)): num_lines(file) for file in (*sources(), *files_of_tests())
    }

    assert {name: length for name, length in long.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_too_long_to_read() -> None:
    long = {
        f"{file.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for file in sources()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }

    assert {name: length for name, length in long.items() if length > MAX_FUNCTION_LINES} == {}


def test_the_tour_of_the_kernel_takes_about_an_hour() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tour = re.findall(r"`([\w/]+\.py)`", page.partition("## Reading order")[2])

    assert len(tour) >= 12
    assert sum(num_lines(ROOT / "aios_core" / name) for name in tour) <= MAX_TOUR_LINES


@pytest.mark.parametrize("box", BOXES)
def test_every_box_of_the_papers_figure_is_a_folder_with_a_description(box: str) -> None:
    text = (ROOT / "aios_core" / box / "__init__.py").read_text(encoding="utf-8")

    assert len(ast.get_docstring(ast.parse(text)) or "") > 40
