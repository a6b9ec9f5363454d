"""The packages of the project, as a package index would show them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import aios_core
from aios_core.core_kinds import OPENAI
from aios_core.distribution import DISTRIBUTION, FOLDERS, install_command

ROOT = Path(__file__).parent.parent
PACKAGES = {DISTRIBUTION: ".", **FOLDERS}


def metadata(folder: str) -> ProjectMetadata[Any]:
    return ProjectMetadata(str(ROOT / folder), PluginManager())


@pytest.mark.parametrize(("name", "folder"), PACKAGES.items())
def test_every_package_has_a_readme_a_licence_a_link_and_the_one_version(
    name: str, folder: str
) -> None:
    core = metadata(folder).core

    assert core.name == name
    assert core.readme.startswith("# ")
    assert core.license_expression == "Apache-2.0"
    assert core.license_files == ["LICENSE"]
    assert core.urls
    assert metadata(folder).version == aios_core.__version__


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_every_other_package_requires_the_kernel_by_its_own_name(folder: str) -> None:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    required = [re.split(r"[\[<>=]", line)[0] for line in project["dependencies"]]

    assert DISTRIBUTION in required
    assert "aios-core" not in required


def test_an_adapter_brings_the_core_libraries_that_its_framework_would_bring_too_new() -> None:
    """LiteLLM takes any openai; without a bound of ours an environment gets a newer one."""
    project = tomllib.loads((ROOT / "adapters/open_interpreter/pyproject.toml").read_text())
    extras = metadata(".").core.optional_dependencies

    assert "aios-kernel[openai]>=0.1,<0.2" in project["project"]["dependencies"]
    assert f"openai<{OPENAI.newest['openai'] + 1},>=2" in extras["openai"]


def test_no_hint_names_the_package_of_another_project() -> None:
    folders = ("aios_core", "adapters", "plugins", "examples", "docs")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    sources = [path for path in found if path.suffix in (".py", ".md", ".toml", ".ipynb")]
    named = re.compile(r"aios-core[\[' ]")  # a thread may be called aios-core-...

    naming = [path for path in sources if named.search(path.read_text())]

    assert naming == []
    assert install_command("openai") == "pip install 'aios-kernel[openai]'"


def test_every_extra_that_a_hint_names_exists() -> None:
    extras = metadata(".").core.optional_dependencies
    hints = re.compile(r"install_command\([\"'](\w+)[\"']\)")
    named = {
        extra
        for folder in ("aios_core", "adapters/common")
        for path in (ROOT / folder).rglob("*.py")
        for extra in hints.findall(path.read_text())
    }

    assert named
    assert named <= extras.keys()


def test_the_wheel_of_the_kernel_holds_both_packages_and_the_command() -> None:
    builder = WheelBuilder(str(ROOT))
    shipped = {one.distribution_path for one in builder.recurse_included_files()}
    folders = {place.split("/")[0] for place in shipped}

    assert folders == {"aios_adapters", "aios_command.py", "aios_core"}
    assert {
        f"{package}/{name}"
        for package in ("aios_adapters", "aios_core")
        for name in ("__init__.py", "py.typed")
    } <= shipped
