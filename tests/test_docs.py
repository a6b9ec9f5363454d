"""Every test, file and command that the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
TEST_NAME = re.compile(r"`((?:adapters|tests)/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!http)([\w./-]+)\)")


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    for path, name in TEST_NAME.findall((ROOT / page).read_text("utf-8")):
        source = (ROOT / path).read_text("utf-8")
        assert not name or re.search(rf"\b{name}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text("utf-8")):
        assert (ROOT / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_blanks_left_to_fill(page: str) -> None:
    assert not re.search(r"@[A-Z]+@|TODO", (ROOT / page).read_text("utf-8"))


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"^make ([\w-]+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no make target {target}"


def test_the_lines_of_the_readme_are_those_of_the_example() -> None:
    example = (ROOT / "examples/langchain/hello.py").read_text("utf-8").split('"""', 2)[2].strip()

    assert f"```python\n{example}\n```" in (ROOT / "README.md").read_text("utf-8")
