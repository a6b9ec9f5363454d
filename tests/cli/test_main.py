from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

import aios_core
from aios_core import cli
from aios_core.cli import COMMANDS, ELSEWHERE, main, parser_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def installed(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """As if a package with that command were installed."""
    entry = EntryPoint(name, value, "aios.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry] if "commands" in group else [])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("run", "doctor", "demo"))


def test_without_a_command_there_is_help_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command has imported when it has ended."""
    program = (
        "import sys, aios_command\n"
        f"sys.argv = ['aios', *{arguments!r}]\n"
        "try: aios_command.main()\n"
        "except SystemExit: pass\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(ended.stderr.split())


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_version_and_help_load_nothing_but_the_command_line(word: str) -> None:
    loaded = loaded_by(word)

    assert {name for name in loaded if name.startswith("aios_core.")} == {
        "aios_core.cli",
        "aios_core.cli.interruption",
        "aios_core.distribution",
    }
    assert loaded & {"apsw", "asyncio", "cryptography", "jsonschema", "rich", "shtab"} == set()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_help_of_a_command_loads_no_other_command_no_kernel_and_no_library(
    command: str,
) -> None:
    loaded = loaded_by(command, "--help")

    others = {f"aios_core.cli.{name}" for name in COMMANDS if name != command}
    heavy = {"apsw", "cryptography", "jsonschema", "openai", "rich", "shtab", "torch"}
    kernel = {"aios_core.kernel.kernel", "aios_core.cores", "aios_core.tools", "aios_core.state"}
    assert loaded & others == set()
    if command != "run":  # which puts frameworks on the kernel
        assert loaded & (heavy | kernel) == set()


def test_approvals_are_listed_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", "/nowhere/state")

    assert loaded_by("approvals") & {"aios_core.kernel.kernel", "aios_core.cores", "torch"} == set()


@pytest.mark.parametrize("command", ["doctor", "audit verify", "tools list", "run script.py"])
def test_a_required_library_that_is_missing_is_one_line_with_its_cure(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text("print('never')")
    (tmp_path / "apsw.py").write_text("raise ModuleNotFoundError('not here', name='apsw')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import aios_core.cli as cli\n"
    program += f"sys.exit(cli.main({command.split()!r}))"

    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(
        r"aios: the library 'apsw' is missing; install it with: pip install 'apsw>=[\d.]+'\n",
        ended.stderr,
    )


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out == f"aios {aios_core.__version__}\n"


def test_an_unknown_option_is_told_with_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--nope"])

    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: aios doctor ")
    assert err.endswith("aios doctor: error: unknown option: --nope\n")


def test_a_misspelled_option_is_refused_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--confg=x.toml"])
    assert "unknown option: --confg=x.toml; did you mean '--config'?" in capsys.readouterr().err


def test_an_unknown_command_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dance"])

    assert ended.value.code == 2
    assert "'dance'" in capsys.readouterr().err


def test_a_command_that_is_not_installed_says_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [])  # noqa: ARG005

    assert main(["demo", "--agents", "3"]) == 1
    assert capsys.readouterr().err.endswith(
        "langchain-aios: pip install ./adapters/langchain (in a checkout of the project)\n"
    )


def test_an_installed_command_gets_its_arguments_and_gives_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []
    module = ModuleType("stranger")
    module.__dict__["main"] = lambda argv: given.append(argv) or 7
    monkeypatch.setitem(sys.modules, "stranger", module)
    installed(monkeypatch, "hello", "stranger:main")

    assert main(["hello", "--loud", "you"]) == 7
    assert given == [["--loud", "you"]]


def test_an_installed_command_that_cannot_be_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "hello", "no_such_module:main")

    assert main(["hello"]) == 1
    assert capsys.readouterr().err.startswith("aios: aios hello of no_such_module:main")


def test_help_lists_what_other_packages_bring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "hello", "stranger:main")

    with pytest.raises(SystemExit):
        main(["--help"])

    assert "stranger:main" in capsys.readouterr().out


def test_the_page_describes_every_command_and_option() -> None:
    page = PAGE.read_text()
    _, commands = parser_of(tuple(COMMANDS), {})

    described = set(re.findall(r"^## `aios ([a-z]+)", page, re.MULTILINE))
    assert described == set(commands)
    assert described == COMMANDS.keys() | ELSEWHERE.keys()
    for command in commands.values():
        options = [option for action in command._actions for option in action.option_strings]
        assert [option for option in options if f"`{option}" not in page] == []


def test_an_option_is_not_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", "--state", "somewhere"])

    assert ended.value.code == 2
    assert "unknown option: --state" in capsys.readouterr().err
