"""`install` puts frameworks on the kernel, before or after their import; `uninstall` undoes it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aios_core
from aios_core.errors import InvalidRequest, NoSuchObject
from aios_core.launch import Launcher, Patches
from aios_core.launch import launcher as launching
from aios_core.launch.launcher import LauncherFailed

FRAMEWORK = """
class Model:
    def ask(self):
        return "native"
"""


def patch(module: ModuleType, patches: Patches) -> None:
    patches.replace(module.Model, "ask", lambda _: "kernel")
    patches.replace(module.Model, "added", 1)


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    patches.replace(module.Model, "ask", lambda _: "passthrough")


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A framework that can be imported, and an adapter for it that is installed."""
    (tmp_path / "a_framework.py").write_text(FRAMEWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    adapter = ModuleType("an_adapter")
    adapter.__dict__["patch"] = patch
    adapter.__dict__["patch_passthrough"] = patch_passthrough
    adapter.__dict__["launcher"] = Launcher(
        "A Framework",
        {
            "substitute": {"a_framework": "an_adapter:patch"},
            "passthrough": {"a_framework": "an_adapter:patch_passthrough"},
        },
    )
    monkeypatch.setitem(sys.modules, "an_adapter", adapter)
    found = [EntryPoint("framework", "an_adapter:launcher", launching.GROUP)]
    monkeypatch.setattr(launching, "entry_points", lambda group: found)  # noqa: ARG005
    yield "framework"
    aios_core.uninstall()
    sys.modules.pop("a_framework", None)


def model() -> Any:
    import a_framework  # type: ignore[import-not-found] # noqa: PLC0415 - made by the fixture

    return a_framework.Model


@pytest.mark.usefixtures("framework")
def test_what_is_imported_later_is_patched_when_it_is_imported() -> None:
    aios_core.install()
    assert "a_framework" not in sys.modules, "it is not imported for its own sake"

    assert model()().ask() == "kernel"


@pytest.mark.usefixtures("framework")
def test_what_was_imported_before_is_patched_in_place() -> None:
    instance = model()()

    aios_core.install()

    assert instance.ask() == "kernel"


@pytest.mark.usefixtures("framework")
def test_uninstalling_gives_everything_back() -> None:
    before = dict(vars(model()))
    finders = sys.meta_path[:]

    aios_core.install()
    aios_core.install()
    aios_core.uninstall()
    aios_core.uninstall()

    assert {k: v for k, v in vars(model()).items() if k != "__doc__"} == {
        k: v for k, v in before.items() if k != "__doc__"
    }
    assert sys.meta_path == finders


@pytest.mark.usefixtures("framework")
def test_after_uninstalling_a_later_import_is_left_alone() -> None:
    aios_core.install()
    aios_core.uninstall()

    assert model()().ask() == "native"


@pytest.mark.usefixtures("framework")
def test_another_mode_takes_the_place_of_the_former() -> None:
    aios_core.install()
    aios_core.install(mode="passthrough")

    assert model()().ask() == "passthrough"
    assert not hasattr(model(), "added"), "nothing of the former mode is left"


def test_one_framework_can_be_chosen(framework: str) -> None:
    aios_core.install([])
    assert model()().ask() == "native"

    aios_core.install(framework)
    assert model()().ask() == "kernel"


@pytest.mark.usefixtures("framework")
def test_an_adapter_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(NoSuchObject, match=r"no adapter 'other'; have \['framework'\]"):
        aios_core.install("other")


@pytest.mark.usefixtures("framework")
def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="mode: got 'replace'"):
        aios_core.install(mode="replace")  # type: ignore[arg-type]


@pytest.mark.usefixtures("framework")
def test_a_patch_that_fails_undoes_itself_and_says_whose_it_is() -> None:
    def half(module: ModuleType, patches: Patches) -> None:
        patches.replace(module.Model, "ask", None)
        raise OSError("broken")

    sys.modules["an_adapter"].__dict__["patch"] = half
    instance = model()()

    with pytest.raises(
        LauncherFailed, match=r"of an_adapter:launcher failed: OSError: broken"
    ) as failed:
        aios_core.install()

    assert failed.value.is_startup
    assert instance.ask() == "native"


@pytest.mark.usefixtures("framework")
def test_a_version_that_was_not_tested_is_warned_of_by_name() -> None:
    launcher = Launcher(
        "A Framework", {"substitute": {"a_framework": "an_adapter:patch"}}, {"pytest": ("0.",)}
    )
    model()

    with pytest.warns(UserWarning, match=r"pytest \d+.* was not tested with AIOS; tested: 0\.\*"):
        launcher.install("substitute")
    launcher.uninstall()


@pytest.mark.usefixtures("framework")
def test_versions_that_were_tested_are_not_spoken_of() -> None:
    launcher = Launcher(
        "A Framework",
        {"substitute": {"a_framework": "an_adapter:patch"}},
        {"pytest": ("",), "not-there": ("1.",)},
    )
    model()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launcher.install("substitute")
    launcher.uninstall()


def test_a_framework_without_a_mode_says_which_it_has() -> None:
    with pytest.raises(
        InvalidRequest, match=r"Other: got 'passthrough'; allowed: \['substitute'\]"
    ):
        Launcher("Other", {"substitute": {}}).install("passthrough")


@pytest.mark.usefixtures("framework")
def test_a_framework_without_the_mode_of_all_warns_when_it_is_imported() -> None:
    launcher = sys.modules["an_adapter"].__dict__["launcher"]
    launcher.patches = {"substitute": launcher.patches["substitute"]}
    aios_core.install(mode="passthrough")

    with pytest.warns(
        UserWarning, match="A Framework does not support mode 'passthrough'; its calls"
    ):
        assert model()().ask() == "native"
