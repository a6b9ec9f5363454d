from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.cli import main
from aios_core.cores import ScriptedCore
from aios_core.launch import launcher as launching

Script = Callable[..., str]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """In an empty folder, and with no launchers but those that a test adds."""
    monkeypatch.chdir(tmp_path)
    found: list[EntryPoint] = []
    monkeypatch.setattr(launching, "entry_points", lambda group: found)  # noqa: ARG005
    return found


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(text: str, name: str = "script.py") -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return name

    return write


def launcher(monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]) -> EntryPoint:
    module = ModuleType("adapter")
    module.__dict__["install"] = call
    module.__dict__["uninstall"] = lambda: None
    monkeypatch.setitem(sys.modules, "adapter", module)
    return EntryPoint("framework", "adapter", "aios.launchers")


# --- as Python would ------------------------------------------------------------------------------


def test_a_script_runs_as_main_with_its_arguments(script: Script, capsys: Capture) -> None:
    name = script("import sys; print(__name__, sys.argv[1:])")

    assert main(["run", "--policy", "fair", name, "--policy", "-m", "x"]) == 0
    assert capsys.readouterr().out == "__main__ ['--policy', '-m', 'x']\n"


def test_a_script_finds_the_modules_beside_it(script: Script, capsys: Capture) -> None:
    script("message = 'hello'", "inner/beside_the_script.py")
    name = script("import beside_the_script; print(beside_the_script.message)", "inner/script.py")

    assert main(["run", name]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_a_module_runs_from_the_current_folder_with_its_arguments(
    script: Script, capsys: Capture
) -> None:
    script("import sys; print(__name__, sys.argv[1:], sys.path[0])", "a_module.py")

    assert main(["run", "-m", "a_module", "--flag", "x"]) == 0
    assert capsys.readouterr().out == f"__main__ ['--flag', 'x'] {Path.cwd()}\n"


def test_nothing_of_the_script_stays_behind(script: Script) -> None:
    before = sys.argv, sys.path[:], dict(os.environ)

    main(["run", "--policy", "las", script("import sys; sys.argv = []; sys.path.append('x')")])

    assert (sys.argv, sys.path, dict(os.environ)) == before


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [("", 0, ""), ("3", 3, ""), ("None", 0, ""), ("'no luck'", 1, "no luck\n"), ("True", 1, "")],
)
def test_the_exit_status_is_the_scripts(
    end: str, status: int, message: str, script: Script, capsys: Capture
) -> None:
    assert main(["run", script(f"import sys; sys.exit({end})")]) == status
    assert capsys.readouterr().err == message


def test_a_traceback_shows_the_scripts_frames_alone(script: Script, capsys: Capture) -> None:
    name = script("def fail():\n    raise ValueError('mine')\n\nfail()\n")

    assert main(["run", name]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: mine"
    assert sum(line.startswith("  File ") for line in lines) == 2
    assert not any("runpy" in line or "aios_core" in line for line in lines)


def test_a_script_that_does_not_parse_is_shown_where(script: Script, capsys: Capture) -> None:
    assert main(["run", script("x = (\n")]) == 1
    err = capsys.readouterr().err
    assert "SyntaxError" in err
    assert "runpy" not in err


# --- what goes wrong before -----------------------------------------------------------------------


def test_a_missing_script_is_one_line(capsys: Capture) -> None:
    assert main(["run", "gone.py"]) == 1
    assert capsys.readouterr().err == "aios: there is no script 'gone.py'\n"


def test_a_folder_without_a_program_is_told_from_one_with_it(
    script: Script, tmp_path: Path, capsys: Capture
) -> None:
    script("print('of the folder')", "app/__main__.py")
    (tmp_path / "empty").mkdir()

    assert main(["run", "app"]) == 0
    assert capsys.readouterr().out == "of the folder\n"
    assert main(["run", "empty"]) == 1
    assert capsys.readouterr().err == (
        "aios: 'empty' is a folder without __main__.py; name a script in it, or a module with -m\n"
    )


@pytest.mark.parametrize("trace", ["missing/trace.json", "."])
def test_a_trace_that_cannot_be_written_is_reported_before_the_script_starts(
    trace: str, script: Script, capsys: Capture
) -> None:
    name = script("print('started')")

    assert main(["run", "--trace", trace, name]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("aios: trace: got ")
    assert captured.err.count("\n") == 1


def test_a_trace_that_can_be_written_is_left_alone_until_the_kernel_starts(
    script: Script, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "trace.json").write_text("former")

    assert main(["run", "--trace", "trace.json", script("print('started')")]) == 0
    assert capsys.readouterr().out == "started\n"
    assert (tmp_path / "trace.json").read_text() == "former"


def test_a_missing_module_is_one_line(capsys: Capture) -> None:
    assert main(["run", "-m", "no_such_module"]) == 1
    assert capsys.readouterr().err.startswith("aios: cannot run the module 'no_such_module'")


def test_no_script_at_all_is_a_wrong_command_line() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run"])

    assert ended.value.code == 2


def test_a_mistake_in_the_configuration_is_one_line_before_the_script_starts(
    script: Script, capsys: Capture
) -> None:
    script("scheduler.quantum = 'many'", "aios.toml")

    assert main(["run", script("print('started')")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("aios: scheduler.quantum (from aios.toml): got 'many'")
    assert captured.err.count("\n") == 1


def test_all_mistakes_in_the_configuration_are_shown_at_once(
    script: Script, capsys: Capture
) -> None:
    script("scheduler.quantum = 'many'\nscheduler.max_attempts = 0\n[unknown]\n", "aios.toml")

    assert main(["run", script("print('started')")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("aios: ") for line in lines)
    for named in ("scheduler.quantum", "scheduler.max_attempts", "unknown"):
        assert any(named in line for line in lines)
    assert [line.endswith("(next: aios doctor)") for line in lines] == [False, False, True]


def test_with_aios_debug_the_error_comes_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIOS_DEBUG", "1")

    with pytest.raises(Exception, match=r"no script 'gone\.py'"):
        main(["run", "gone.py"])


def test_an_unknown_policy_is_a_wrong_command_line(script: Script, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--policy", "fare", script("")])

    assert "fair" in capsys.readouterr().err


# --- the kernel -----------------------------------------------------------------------------------


def test_the_options_reach_every_kernel_of_the_script(script: Script, capsys: Capture) -> None:
    script("drain_s = 9", "other.toml")
    name = script(
        "from aios_core import KernelConfig; c = KernelConfig.load()\n"
        "print(c.scheduler.policy, c.drain_s)"
    )

    assert main(["run", "--policy", "las", "--config", "other.toml", name]) == 0
    assert capsys.readouterr().out == "las 9.0\n"


def test_launchers_are_called_before_the_script(
    script: Script,
    launchers: list[EntryPoint],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    launchers.append(launcher(monkeypatch, lambda mode: sys.stdout.write(f"{mode}\n")))

    assert main(["run", script("print('script')")]) == 0
    assert capsys.readouterr().out == "substitute\nscript\n"


def test_a_launcher_that_fails_is_one_line_with_its_owner(
    script: Script,
    launchers: list[EntryPoint],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    launchers.append(launcher(monkeypatch, lambda _: 1 / 0))

    assert main(["run", script("print('script')")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        "the launcher 'framework' of adapter failed: ZeroDivisionError: division by zero"
        in captured.err
    )


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "raise ValueError"])
def test_the_embedded_kernel_is_closed_when_the_script_has_ended(end: str, script: Script) -> None:
    kernel = Kernel(KernelConfig(), cores=[ScriptedCore("hello")]).start()
    former = set_default_kernel(kernel)

    try:
        main(["run", script(f"import aios_core\naios_core.default_kernel()\n{end}")])
    finally:
        set_default_kernel(former)

    assert "closed" in repr(kernel)


def test_ctrl_c_ends_the_script_with_130(script: Script) -> None:
    name = script(
        "import signal\n"
        "try:\n    print('ready', flush=True)\n    signal.pause()\n"
        "finally:\n    print('cleaned up', flush=True)\n"
    )
    command = [sys.executable, "-m", "aios_core.cli", "run", name]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert out == "cleaned up\n"
    assert err == "aios: interrupted\n"


@pytest.mark.slow
def test_a_script_on_the_tiny_model_leaves_without_a_word(script: Script) -> None:
    name = script(
        "from aios_core import default_kernel\n"
        "print(bool(default_kernel().spawn('a').llm.generate('Hello', max_tokens=2)))"
    )
    for command in ([sys.executable], [sys.executable, "-m", "aios_core.cli", "run"]):
        ended = subprocess.run(  # noqa: S603
            [*command, name],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"AIOS_QUIET": "1"},
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
