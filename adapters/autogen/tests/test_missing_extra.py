"""A framework that is not installed is asked for by name, with the way to install it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("autogen_aios.classic", "autogen", "classic"),
        ("autogen_aios.agent_framework", "agent_framework", "agent-framework"),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(
    module: str, framework: str, extra: str
) -> None:
    program = f"import sys; sys.modules[{framework!r}] = None; import {module}"

    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours

    (last,) = ended.stderr.splitlines()[-1:]
    assert last == (
        f"ImportError: {module} needs {framework}, which is not installed; "
        f"install it with: pip install 'autogen-aios[{extra}]'"
    )
