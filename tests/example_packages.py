"""Installs the packages of ``examples/plugins`` for a test, as far as their metadata goes."""

import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "plugins"
FOLDERS = ("echo_core", "shortest_first")


def write_metadata(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """Write a distribution's metadata: its name, and its entry points by group."""
    facts = site / f"{name.replace('-', '_')}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (facts / "entry_points.txt").write_text("\n".join(lines))


def install_example(folder: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one example importable, and its entry points known."""
    project = tomllib.loads((EXAMPLES / folder / "pyproject.toml").read_text())["project"]
    monkeypatch.syspath_prepend(EXAMPLES / folder)
    write_metadata(site, project["name"], project["entry-points"])


def install_examples(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """Install all of them."""
    monkeypatch.syspath_prepend(site)
    for folder in FOLDERS:
        install_example(folder, site, monkeypatch)
