"""Output at a terminal when a kernel cannot work, or when a person presses Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core import set_default_kernel
from aios_core.cli import main
from aios_core.cli.failures import setup_failure
from aios_core.errors import ConfigError, InvalidRequest

Capture = pytest.CaptureFixture[str]

USE = "from aios_core import default_kernel\nagent = default_kernel().spawn('a')\n"
REMEMBER = f"{USE}agent.memory.write('x', 'y')\n"
IN_A_GROUP = f"""
import asyncio

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(exec, {REMEMBER!r}))

asyncio.run(main())
"""
NO_MODEL = '[[cores]]\nkind = "transformers"\npath = "/nowhere/model"\n'
NO_SERVER = '[[cores]]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
NO_KEY = '[state]\nencryption_key = "env:AIOS_TEST_NO_SUCH_KEY"\n'
NO_POLICY = '[scheduler]\npolicy = "fiar"\n'
NO_TRACE = 'trace = "/nowhere/trace.json"\n[[cores]]\nkind = "tiny"\n'
BAD_OPTION = '[[cores]]\nkind = "tiny"\n[cores.options]\nslotz = 3\n'


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIOS_QUIET", "1")
    former = set_default_kernel(None)
    yield
    if kernel := set_default_kernel(former):
        kernel.close(0)


def damaged_state() -> str:
    """The configuration of a state directory that is a file."""
    Path("state").write_text("no directory")
    return '[state]\ndirectory = "state"\n'


@pytest.mark.parametrize(
    ("config", "script", "told"),
    [
        (
            NO_MODEL,
            USE,
            "script.py:2: no core started: transformers: there is no folder /nowhere/model",
        ),
        (NO_SERVER, USE, "cannot reach http://127.0.0.1:9/v1"),
        (NO_KEY, REMEMBER, "AIOS_TEST_NO_SUCH_KEY is not set"),
        (BAD_OPTION, USE, "slotz"),
        (NO_POLICY, USE, "did you mean 'fair'?"),
        (
            NO_TRACE,
            "print(1)\n",
            "trace: got '/nowhere/trace.json'; allowed: a path of a file in a folder",
        ),
        (damaged_state, REMEMBER, "script.py:3: the state directory"),
        (damaged_state, IN_A_GROUP, "the state directory"),
    ],
    ids=["model", "server", "key", "option", "policy", "trace", "state", "group"],
)
def test_what_is_wrong_with_the_kernel_is_one_line_of_a_script_with_a_next_step(
    config: object, script: str, told: str, capsys: Capture
) -> None:
    Path("aios.toml").write_text(config() if callable(config) else str(config))
    Path("script.py").write_text(script)

    assert main(["run", "script.py"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert told in err
    assert err.startswith("aios: ")
    assert err.endswith("(next: aios doctor)\n")


def test_a_mistake_of_the_script_itself_keeps_its_traceback(capsys: Capture) -> None:
    Path("script.py").write_text(f"{USE}agent.llm.generate([])\n")
    Path("aios.toml").write_text('[[cores]]\nkind = "tiny"\n')

    assert main(["run", "script.py"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "script.py" in err
    assert "doctor" not in err


def test_the_cause_is_found_behind_what_a_framework_makes_of_it() -> None:
    error = ConfigError("scheduler.policy", "x", "one of them")

    def wrapped() -> BaseException:
        try:
            try:
                raise error
            except ConfigError as exc:
                raise RuntimeError("model error") from exc
        except RuntimeError as exc:
            return BaseExceptionGroup("tasks", [ValueError("another"), exc])

    assert setup_failure(wrapped()) is error
    assert setup_failure(InvalidRequest("a mistake in a call")) is None


# --- Ctrl-C ---------------------------------------------------------------------------------------


def run(script: str) -> subprocess.CompletedProcess[str]:
    Path("script.py").write_text(script)
    command = [sys.executable, "-m", "aios_core.cli", "run", "script.py"]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def test_ctrl_c_is_not_lost_where_python_swallows_it() -> None:
    ended = run(
        "import signal\n"
        "class Swallows:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "Swallows()\n"
        "while True:\n"
        "    signal.sigtimedwait([], 0.01)\n"
    )

    assert (ended.returncode, ended.stderr) == (130, "aios: interrupted\n")


def test_a_thread_that_never_ends_does_not_keep_an_interrupted_command() -> None:
    ended = run(
        "import signal, threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )

    assert (ended.returncode, ended.stderr) == (130, "aios: interrupted\n")
