"""The check of our English finds words in prose, and leaves code alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "prose_lint.py"


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose_lint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def found(lint: ModuleType, path: Path, text: str) -> list[tuple[int, str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [(finding.line, finding.word) for finding in lint.check(path, lint.read_rules())]


def test_words_are_found_in_docstrings_comments_and_messages(
    lint: ModuleType, tmp_path: Path
) -> None:
    source = '''"""Read it.

Nobody is notified.
"""
# It goes on.
raise ValueError("the call was told nothing")
'''

    words = found(lint, tmp_path / "a.py", source)

    assert words == [(3, "Nobody"), (5, "goes on"), (6, "told")]


def test_names_and_code_in_backquotes_are_left_alone(lint: ModuleType, tmp_path: Path) -> None:
    source = '''"""Call `told`, or ``whose``."""

told = {"whose": 1}
'''

    assert found(lint, tmp_path / "a.py", source) == []


@pytest.mark.parametrize("opening", ["The same on any event loop.", "Whether it is open."])
def test_a_docstring_does_not_begin_with_a_riddle(
    lint: ModuleType, tmp_path: Path, opening: str
) -> None:
    source = f'def f() -> None:\n    """{opening}"""\n\n\n# The same is true here.\n'

    assert [line for line, _ in found(lint, tmp_path / "a.py", source)] == [2]


def test_a_property_states_whether_something_is_so(lint: ModuleType, tmp_path: Path) -> None:
    source = 'class A:\n    @property\n    def is_b(self) -> bool:\n        """Whether it is."""\n'

    assert found(lint, tmp_path / "a.py", source) == []


def test_pages_are_checked_outside_of_fences(lint: ModuleType, tmp_path: Path) -> None:
    page = "Nobody\n\n```python\n# Nobody\n```\n\nwhose\n"

    assert found(lint, tmp_path / "a.md", page) == [(1, "Nobody"), (7, "whose")]


def test_a_line_can_be_exempt(lint: ModuleType, tmp_path: Path) -> None:
    assert found(lint, tmp_path / "a.py", "# Nobody knows.  prose: ok\n") == []


def test_strings_of_tests_are_data_and_their_comments_are_not(
    lint: ModuleType, tmp_path: Path
) -> None:
    source = 'TEXT = "nobody knows"\n# nobody knows\n'

    assert found(lint, tmp_path / "tests" / "a.py", source) == [(2, "nobody")]


def test_every_word_comes_with_what_to_write_instead(lint: ModuleType) -> None:
    assert all(rule.instead for rule in lint.read_rules())
