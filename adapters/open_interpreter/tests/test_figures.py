"""A picture that a block makes reaches the user as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.config import AccessConfig, SandboxConfig, StateConfig, ToolsConfig
from aios_core.cores import ScriptedCore
from aios_core.tools.sandbox import probe_backends
from open_interpreter_aios import attach

from .conftest import Boot, Runner
from .programs import coder, told

PNG = b"\x89PNG\r\n\x1a\nof a kind"


def test_a_picture_is_copied_to_the_directory_and_named_in_the_output(
    boot: Boot, interpreter: Any, runner: Runner, tmp_path: Path
) -> None:
    agent = boot(coder("plt.show()")).spawn("ann")
    agent.storage.write("figures/figure-1.png", PNG)
    runner.figures = ("figures/figure-1.png",)
    attachment = attach(interpreter, agent=agent, figures=tmp_path / "plots")

    said = told(interpreter.chat("draw", display=False))

    (copy,) = attachment.figures.iterdir()
    assert copy.read_bytes() == PNG
    assert f"[figures/figure-1.png: open {copy}]" in said[1][2]


def test_pictures_of_later_blocks_replace_none_of_those_before(
    boot: Boot, interpreter: Any, runner: Runner, tmp_path: Path
) -> None:
    agent = boot().spawn("ann")
    agent.storage.write("plot.png", PNG)
    runner.figures = ("plot.png",)
    attach(interpreter, agent=agent, figures=tmp_path)

    for _ in range(2):
        interpreter.computer.run("python", "pass")

    assert {"figure-1.png", "figure-2.png"} <= {path.name for path in tmp_path.iterdir()}


def test_what_is_no_picture_or_not_there_is_not_copied(
    boot: Boot, interpreter: Any, runner: Runner, tmp_path: Path
) -> None:
    agent = boot().spawn("ann")
    agent.storage.write("script.png", b"#!/bin/sh")
    runner.figures = ("script.png", "gone.png")
    attach(interpreter, agent=agent, figures=tmp_path / "plots")

    (said,) = interpreter.computer.run("python", "pass")

    assert not (tmp_path / "plots").exists()
    assert "[gone.png: among the agent's files, not exported: " in said["content"]


def test_the_name_of_a_conversation_chooses_no_other_directory(
    boot: Boot, interpreter: Any
) -> None:
    attachment = attach(interpreter, kernel=boot(), conversation="../../etc")

    assert attachment.figures == Path("open_interpreter_figures/_etc")


def test_a_plot_in_the_real_sandbox_reaches_the_user(interpreter: Any, tmp_path: Path) -> None:
    sandbox = SandboxConfig(packages=("numpy", "matplotlib"))
    if not any(tier.is_available for _, tier in probe_backends(sandbox).values()):
        pytest.skip("no sandbox here")
    config = KernelConfig(
        state=StateConfig(directory=":memory:"),
        access=AccessConfig(approver="allow"),
        tools=ToolsConfig(sandbox=sandbox),
    )
    draw = "import numpy, matplotlib.pyplot as plt\nplt.plot(numpy.arange(9) ** 2)\nplt.show()"
    with Kernel(config, cores=[ScriptedCore(coder(draw))]) as kernel:
        attachment = attach(interpreter, kernel=kernel, agent="ann", figures=tmp_path)

        said = told(interpreter.chat("draw", display=False))

        assert f"open {attachment.figures / 'figure-1.png'}]" in said[1][2]
        assert (tmp_path / "figure-1.png").read_bytes().startswith(PNG[:8])
