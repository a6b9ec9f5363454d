"""The documentation is complete: every page is in the navigation, every link leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n", 1)[1]
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
LONG = re.compile(r"reference/|benchmarks/")  # looked up, not read


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"([\w./-]+\.md)\s*$", NAVIGATION, re.MULTILINE)

    assert sorted(listed) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", without_code((DOCS / page).read_text())):
        assert (DOCS / page).parent.joinpath(target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_its_title_and_has_no_other(page: str) -> None:
    titles = re.findall(r"^# .+", without_code((DOCS / page).read_text()), re.MULTILINE)

    assert len(titles) == 1
    assert (DOCS / page).read_text().lstrip().startswith(("# ", "<!--", "---"))


@pytest.mark.parametrize("page", [page for page in PAGES if not LONG.match(page)])
def test_a_page_that_is_read_is_short(page: str) -> None:
    words = without_code((DOCS / page).read_text("utf-8")).split()

    assert len(words) <= 1_200, f"{page} has {len(words)} words"


MOVED = [
    (page, heading, target, text)
    for page, headings in tomllib.loads(
        (Path(__file__).with_name("moved.toml")).read_text("utf-8")
    ).items()
    for heading, (target, text) in headings.items()
]


@pytest.mark.parametrize(("page", "heading", "target", "text"), MOVED)
def test_what_a_former_page_described_has_a_place(
    page: str, heading: str, target: str, text: str
) -> None:
    assert text in (DOCS / target).read_text("utf-8"), f"{page}, {heading}"
