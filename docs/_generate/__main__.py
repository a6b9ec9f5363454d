"""Write the parts of the documentation that follow from the code.

    python docs/_generate             writes them
    python docs/_generate --check     names what is out of date, with exit status 1

Regions of a page are written by the generator of their name (see `regions`); the pages below
`reference/api/` are written whole. Nothing is imported from the pages, and no kernel is started.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import api_pages
import architecture_page
import cli_page
import config_page
import entry_points_page
import errors_page
import events_page
import policy_page
import syscalls_page
from regions import Generator, refresh

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
API = DOCS / "reference" / "api"

GENERATORS: dict[str, Generator] = {
    "api": api_pages.api_index,
    "cli": cli_page.arguments,
    "commands": cli_page.commands,
    "config": config_page.config,
    "entry-points": entry_points_page.entry_point_groups,
    "error-tree": errors_page.error_tree,
    "errors": errors_page.error_table,
    "events": events_page.events,
    "layers": architecture_page.layers,
    "nav-api": api_pages.nav_api,
    "operators": policy_page.operators,
    "rule-keys": policy_page.rule_keys,
    "syscalls": syscalls_page.syscalls,
    "transitions": architecture_page.transitions,
}


def main() -> int:
    """Write, or check, every generated part. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="only name what is out of date")
    is_check = parser.parse_args().check
    changed = sorted(_changes())
    for path, text in changed:
        print(f"{'out of date' if is_check else 'written'}: {path.relative_to(ROOT)}")
        if not is_check and text is None:
            path.unlink()
        elif not is_check and text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    if is_check and changed:
        print("Write them with: make docs-generate", file=sys.stderr)
    return int(is_check and bool(changed))


def _changes() -> Iterator[tuple[Path, str | None]]:
    """Yield the files that should be different, with their text; None: it should not be there."""
    whole = {API / name: text for name, text in api_pages.pages().items()}
    for path in sorted(API.glob("*.md")):
        if path not in whole:
            yield path, None
    for path, text in whole.items():
        if not path.exists() or path.read_text("utf-8") != text:
            yield path, text
    for path in _pages_with_regions():
        before = path.read_text("utf-8")
        if (after := refresh(before, GENERATORS)) != before:
            yield path, after


def _pages_with_regions() -> Iterator[Path]:
    yield ROOT / "mkdocs.yml"
    yield ROOT / "ARCHITECTURE.md"
    for path in sorted(DOCS.rglob("*.md")):
        if API not in path.parents:
            yield path


if __name__ == "__main__":
    sys.exit(main())
