"""Packages that code in the sandbox may import, and the figures that it draws with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.cli.doctor_checks import _sandbox
from aios_core.cli.findings import Health
from aios_core.config import SandboxConfig, StateConfig, ToolsConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import ConfigError, SandboxUnavailable
from aios_core.tools.sandbox import Program, Sandbox, SandboxLimits
from aios_core.tools.sandbox.bubblewrap import Bubblewrap
from aios_core.tools.sandbox.packages import find_packages
from aios_core.tools.sandbox.runner import program_for

from .conftest import Examined

PNG = b"\x89PNG\r\n\x1a\n"


def made(directory: Path, name: str, files: list[str], *requires: str) -> None:
    """Install a distribution without content."""
    record = directory / f"{name.replace('-', '_')}-1.0.dist-info"
    for file in files:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    record.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
    (record / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)])
    )
    listed = [*files, f"{record.name}/METADATA", "../../bin/script"]
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in listed))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of packages that this program imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_brings_what_it_requires_and_nothing_else(environment: Path) -> None:
    made(
        environment,
        "plots-aios",
        ["plots/__init__.py"],
        "arrays-aios>=1",
        "slow-aios; extra == 'slow'",
    )
    made(environment, "arrays-aios", ["arrays/__init__.py", "arrays.libs/fast.so"], "plots-aios")
    made(environment, "slow-aios", ["slow.py"])
    made(environment, "other-aios", ["other.py"])

    found = find_packages(["Plots-AIOS"])

    assert set(found) == {
        *("plots", "plots_aios-1.0.dist-info"),
        *("arrays", "arrays.libs", "arrays_aios-1.0.dist-info"),
    }
    assert found["plots"] == str(environment / "plots")


def test_an_extra_that_is_required_brings_its_packages(environment: Path) -> None:
    made(environment, "plots-aios", ["plots.py"], "arrays-aios[slow]")
    made(environment, "arrays-aios", ["arrays.py"], "slow-aios ; extra == 'slow'")
    made(environment, "slow-aios", ["slow.py"])

    assert {"plots.py", "arrays.py", "slow.py"} <= set(find_packages(["plots-aios"]))


def test_of_a_namespace_only_the_packages_own_part_is_shown(environment: Path) -> None:
    made(environment, "one-aios", ["space_aios/one/__init__.py", "space_aios/one/data.txt"])
    made(environment, "two-aios", ["space_aios/two/__init__.py"])

    assert set(find_packages(["one-aios"])) == {"space_aios/one", "one_aios-1.0.dist-info"}


def test_a_package_that_is_not_installed_is_refused_with_those_that_are(environment: Path) -> None:
    made(environment, "aaa-plots", ["plots.py"])

    with pytest.raises(
        ConfigError, match=r"tools\.sandbox\.packages.*aaa-plot.*installed.*aaa-plots"
    ):
        find_packages(["aaa-plot"])


def test_a_package_without_files_of_its_own_is_refused(environment: Path) -> None:
    made(environment, "edited-aios", ["_edited.pth"])

    with pytest.raises(ConfigError, match="editable"):
        find_packages(["edited-aios"])


def test_a_kernel_with_a_wrong_name_does_not_start() -> None:
    tools = ToolsConfig(sandbox=SandboxConfig(packages=("nothing-of-that-name",)))
    config = KernelConfig(state=StateConfig(directory=":memory:"), tools=tools)

    with pytest.raises(ConfigError, match=r"tools\.sandbox\.packages.*nothing-of-that-name"):
        Kernel(config, cores=[ScriptedCore("ok")]).start()


def test_the_doctor_says_which_packages_are_missing() -> None:
    sandbox = SandboxConfig(packages=("nothing-of-that-name",))

    *_, finding = _sandbox(KernelConfig(tools=ToolsConfig(sandbox=sandbox)))

    assert (finding.name, finding.health) == ("packages", Health.ERROR)


def test_every_isolation_backend_is_handed_the_packages() -> None:
    backend: Any = type("Tier", (), {"python": "/usr/bin/python3"})()

    program = program_for(backend, "python", "1", SandboxLimits(), {"numpy": "/there/numpy"})

    assert program.packages == {"numpy": "/there/numpy"}


def test_packages_for_another_python_than_the_one_inside_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Bubblewrap(uid=65534)
    other = type("Interpreter", (), {"executable": "/usr/bin/python3.9", "tag": "cpython-39"})()
    monkeypatch.setitem(vars(backend), "_interpreter", other)

    with pytest.raises(SandboxUnavailable, match=r"cpython-39.*tools\.sandbox\.python"):
        list(backend._shown({"numpy": "/there/numpy"}))


# --- with the real ones ---------------------------------------------------------------------------


@pytest.fixture
async def drawing(config: SandboxConfig, examined: Examined) -> AsyncIterator[Sandbox]:
    """Return a sandbox with numpy and matplotlib."""
    pytest.importorskip("matplotlib")
    more = replace(config, packages=("numpy", "matplotlib"), memory_bytes=1 << 30)
    sandbox = Sandbox(more, backends={"bubblewrap": lambda _: examined})
    yield sandbox
    await sandbox.close()


async def test_packages_are_imported_and_cannot_be_changed(drawing: Sandbox) -> None:
    session = await drawing.open_session("default/ann")

    result = await session.execute("import numpy as np\nint(np.arange(4).sum())")
    written = await session.execute("open(np.__file__, 'a')")
    others = await session.execute("import pytest")

    assert result.value == "6"
    assert "Permission denied" in written.stderr or "Read-only file system" in written.stderr
    assert "ModuleNotFoundError" in others.stderr


async def test_figures_of_a_cell_are_files_and_named_in_its_output(
    drawing: Sandbox, tmp_path: Path
) -> None:
    session = await drawing.open_session("default/ann", files=tmp_path)
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nlines = plt.plot([2, 1])"

    result = await session.execute(draw)
    after = await session.execute("plt.get_fignums()")
    failing = await session.execute("plt.switch_backend('agg'); plt.plot([1]); 1 / 0")

    assert result.figures == ("figures/figure-1.png", "figures/figure-2.png")
    assert "figure saved as figures/figure-1.png\n" in result.stdout
    assert (tmp_path / "figures/figure-2.png").read_bytes().startswith(PNG)
    assert after.value == "[]"
    assert failing.figures == ("figures/figure-3.png",)  # however the cell ended
    assert "ZeroDivisionError" in failing.stderr


async def test_figures_of_a_program_are_saved_at_its_end(drawing: Sandbox, tmp_path: Path) -> None:
    result = await drawing.run(
        "python", "import matplotlib.pyplot as plt\nplt.plot([1, 2])", files=tmp_path
    )

    assert result.files.written == ("figures/figure-1.png",)  # and no cache of a library
    assert (tmp_path / "figures/figure-1.png").read_bytes().startswith(PNG)


async def test_code_that_draws_nothing_leaves_no_file(drawing: Sandbox, tmp_path: Path) -> None:
    session = await drawing.open_session("default/ann", files=tmp_path)

    result = await session.execute("import matplotlib.pyplot as plt\nplt.figure()\nNone")

    assert (result.files.written, result.stdout) == ((), "")


def test_a_program_shows_no_packages_unless_it_is_given_some() -> None:
    assert Program(("true",), SandboxLimits()).packages == {}
