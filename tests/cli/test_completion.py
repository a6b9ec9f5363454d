"""`aios completion`: the scripts are generated, and bash completes with them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from aios_core import cli
from aios_core.cli import COMMANDS, main
from aios_core.cli.completion import SHELLS, completion_script
from aios_core.scheduler import POLICIES

BASH = shutil.which("bash") or ""
needs_bash = pytest.mark.skipif(not BASH, reason="bash is not installed")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_names_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0

    script = capsys.readouterr().out
    for word in (*COMMANDS, *POLICIES, "timeout", "trace", "explain", "verify", "demo"):
        assert word in script


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_that_is_installed_can_read_its_script(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion_script(shell))

    ended = subprocess.run(  # noqa: S603
        [program, "-n", str(script)], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def completed(line: str, folder: Path) -> set[str]:
    """Return the words that bash offers at the end of a line, at a press of the tab key."""
    words = line.split(" ")
    program = completion_script("bash") + (
        f"\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f"COMP_CWORD={len(words) - 1}\n"
        f"_shtab_aios aios {words[-1]!r} {words[-2]!r}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    ended = subprocess.run(  # noqa: S603
        [BASH, "--norc", "-c", program], capture_output=True, text=True, check=True, cwd=folder
    )
    return set(ended.stdout.split())


@needs_bash
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("aios doc", {"doctor"}),
        ("aios run --policy ", set(POLICIES)),
        ("aios tools ", {"list", "show", "run", "check"}),
        ("aios completion ", set(SHELLS)),
        ("aios doctor --tim", {"--timeout"}),
        ("aios run agen", {"agents.py"}),
        ("aios doctor --config te", {"team.toml"}),
        ("aios tools check agen", {"agents.py"}),
        ("aios audit verify --state-dir my", {"my_state"}),
    ],
)
def test_bash_completes_commands_options_values_and_files(
    line: str, offered: set[str], tmp_path: Path
) -> None:
    (tmp_path / "agents.py").touch()
    (tmp_path / "team.toml").touch()
    (tmp_path / "my_state").mkdir()

    assert completed(line, tmp_path) == offered


def test_options_of_an_installed_command_that_offers_its_parser_are_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("stranger")
    offered = argparse.ArgumentParser()
    offered.add_argument("--loudness", choices=("soft", "loud"))
    module.__dict__["parser"] = lambda: offered
    monkeypatch.setitem(sys.modules, "stranger", module)
    entries = [
        EntryPoint("hello", "stranger:main", "aios.commands"),
        EntryPoint("broken", "no_such_module:main", "aios.commands"),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)  # noqa: ARG005

    script = completion_script("bash")

    assert "--loudness" in script
    assert "broken" in script


def test_another_shell_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "csh"])

    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err
