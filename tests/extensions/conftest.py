"""Packages that register something, installed as far as their metadata goes."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.example_packages import (
    FOLDERS,
    install_example,
    write_metadata,
)

Install = Callable[[str, dict[str, dict[str, str]]], None]


@pytest.fixture
def imported() -> Iterator[None]:
    """Forget afterwards which modules a test imported."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in FOLDERS or name.startswith("third_party"):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: None) -> Install:  # noqa: ARG001
    """Write a distribution's metadata: its name, and its entry points by group."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    return partial(write_metadata, site)


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str, str], None]:
    """Write a module where distributions of `install` have theirs."""

    def module(name: str, source: str) -> None:
        (tmp_path / "site" / f"{name}.py").write_text(source)

    return module


@pytest.fixture
def example(
    install: Install,  # noqa: ARG001 - makes the folder
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """Install a package of ``examples/plugins`` by its folder."""
    return partial(install_example, site=tmp_path / "site", monkeypatch=monkeypatch)
