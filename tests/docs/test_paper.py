"""The page about the paper names files, tests, syscalls and numbers that exist."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

from aios_core import Agent, Kernel, KernelConfig
from aios_core.cores import ScriptedCore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/paper.md").read_text("utf-8")
RESULTS = (ROOT / "docs/benchmarks/results.md").read_text("utf-8")
PLACES = sorted(
    set(re.findall(r"`((?:adapters|aios_core|bench|compat_bench|tests)/[\w/.]*)`", PAGE))
)
NAMES = sorted(set(re.findall(r"`((?:agent|kernel)\.[\w.]+)`", PAGE)))
OURS = ("2.3 to 2.6", "9.7", "1.10", "192", "3,656", "10,000", "1.5", "1.7")


@pytest.mark.parametrize("place", PLACES)
def test_the_files_of_the_page_exist(place: str) -> None:
    path = ROOT / place
    assert path.is_dir() if place.endswith("/") else path.is_file()


def test_the_syscalls_of_the_page_exist() -> None:
    config = KernelConfig(state={"directory": ":memory:"})  # type: ignore[arg-type]
    with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        having = {"agent": kernel.spawn("one"), "kernel": kernel}
        assert isinstance(having["agent"], Agent)
        for name in NAMES:
            owner, _, rest = name.partition(".")
            assert callable(attrgetter(rest)(having[owner])), name
    assert len(NAMES) > 25


def test_our_numbers_are_among_the_results() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [n for n in OURS if n not in RESULTS + readme or n not in PAGE] == []
