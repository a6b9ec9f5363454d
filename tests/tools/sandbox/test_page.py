"""The page about the sandbox: what it shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aios_core.config import SandboxConfig

PAGE = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text("utf-8")


def test_the_snippets_run(
    config: SandboxConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del config  # there is a sandbox here
    monkeypatch.setenv("AIOS_QUIET", "1")
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", ":memory:")
    names: dict[str, object] = {"__name__": "docs/sandbox.md"}

    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(snippet, "docs/sandbox.md", "exec"), names)  # noqa: S102 - our own page

    said = capsys.readouterr().out.splitlines()
    assert said == [
        "45",
        " 0 None",
        "42",
        "{'value': None, 'notice': None}",
        "{'value': '42', 'notice': None}",
        "b'41'",
    ]
