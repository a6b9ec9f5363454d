"""The suites that the package index has, and how each is fetched and given what it imports.

A suite is in the source archive of its distribution, in the version that is installed
here. Its other imports are installed into an environment of its own, which sees everything
that is installed here. Delete it to make it again; nothing is added to this environment.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_LONGEST_S: Final = 1_800.0  # that pip may take
_TAIL: Final = 1_000  # characters of pip's output in a message


class SuiteUnavailable(Exception):
    """A suite is not available here; the message has the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One distribution's tests.

    `requires` are named as pip does; they are installed even where another version is here.
    """

    distribution: str
    plugin: str
    tests: tuple[str, ...] = ("tests",)
    requires: tuple[str, ...] = ()


_OF_LANGGRAPH: Final = (
    *("pytest-mock", "syrupy", "redis", "psycopg[binary,pool]", "pycryptodome"),
    *("langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite"),
)
_ALL: Final = (
    Suite(
        "langchain",
        "langchain",
        ("tests/unit_tests/agents",),
        ("blockbuster<1.6", "langchain-tests", "pytest-mock", "pytest-socket", "syrupy", "toml"),
    ),
    Suite("langgraph", "langchain", requires=(*_OF_LANGGRAPH, "pytest-repeat", "httpx")),
    Suite("langgraph-prebuilt", "langchain", requires=_OF_LANGGRAPH),
    Suite(
        "langgraph-checkpoint",
        "langchain",
        ("tests/test_store.py", "tests/test_memory.py"),
        ("dataclasses-json", "pandas", "pycryptodome", "pytest-mock", "redis"),
    ),
    Suite("langgraph-supervisor", "langchain", requires=("langgraph-supervisor",)),
    Suite("langgraph-swarm", "langchain", requires=("langgraph-swarm",)),
    # AutoGen's tools for MCP know only the first major version of its package.
    Suite("autogen-agentchat", "autogen", requires=("anthropic", "httpx-sse", "mcp<2")),
    Suite("agent-framework-core", "agent_framework"),
    Suite("llama-index-core", "llamaindex"),
)
SUITES: Final = {suite.distribution: suite for suite in _ALL}


def fetch(suite: Suite, folder: Path) -> Path:
    """The unpacked source archive of a suite, from the package index if it is not there yet.

    Raises:
        SuiteUnavailable: the index has no source archive, or there are no tests in it.
    """
    wanted = version_of(suite.distribution)
    name = suite.distribution if wanted is None else f"{suite.distribution}=={wanted}"
    folder.mkdir(parents=True, exist_ok=True)
    root = _unpacked(suite, wanted, folder)
    if root is None:
        _pip(
            ("download", "--no-deps", "--no-binary", suite.distribution, name, "-d", str(folder)),
            f"{name}: the package index gives no source archive",
        )
        for archive in folder.glob("*.tar.gz"):
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
        root = _unpacked(suite, wanted, folder)
    if root is None:
        raise SuiteUnavailable(f"{name}: its source archive has another name than expected")
    missing = [one for one in suite.tests if not (root / one).exists()]
    if missing:
        raise SuiteUnavailable(
            f"{name}: its source archive has no {missing[0]}. With a checkout of its repository: "
            f"python -m compat_bench.reroute {suite.plugin} PATH/TO/{suite.distribution}"
        )
    return root


def environment(suite: Suite, folder: Path) -> Path:
    """The interpreter of an environment that has what a suite imports.

    Raises:
        SuiteUnavailable: something that it requires cannot be installed.
    """
    python = folder / "bin" / "python"
    done = folder / "complete"
    if done.exists():
        return python
    venv.create(folder, with_pip=False, clear=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    here = sysconfig.get_path("purelib")
    (site / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in installed(suite.requires)))
    if suite.requires:
        _pip(
            ("install", "-c", str(constraints), *suite.requires),
            f"{suite.distribution}: what its tests import cannot be installed",
            python,
        )
    done.touch()
    return python


def installed(excepting: Iterable[str] = ()) -> list[str]:
    """Return the installed versions as constraints for pip, except those of some packages."""
    named = {_canonical(re.split(r"[\[<>=!~ ]", one)[0]) for one in excepting}
    found = {_canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in found.items() if name not in named)


def version_of(distribution: str) -> str | None:
    """The version that is installed here; None: it is not, so the latest is wanted."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _unpacked(suite: Suite, version: str | None, folder: Path) -> Path | None:
    stem = suite.distribution.replace("-", "_")
    found = sorted(folder.glob(f"{stem}-{version or '[0-9]*'}/"))
    return found[-1] if found else None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(arguments: Sequence[str], problem: str, python: Path | None = None) -> None:
    command = [str(python or sys.executable), "-m", "pip", "--quiet", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - pip, with names from this file
            command, capture_output=True, text=True, check=False, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired as exc:
        raise SuiteUnavailable(f"{problem}: pip took more than {_LONGEST_S:.0f} s") from exc
    if done.returncode:
        raise SuiteUnavailable(f"{problem}; pip reports:\n{done.stderr.strip()[-_TAIL:]}")
