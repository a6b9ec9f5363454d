"""`aios run` and `install()`: an unmodified script runs on the kernel, without key or network."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interpreter import OpenInterpreter
from interpreter import interpreter as theirs
from interpreter.core.llm.llm import fixed_litellm_completions

import aios_core
from aios_core import EventKind, Kernel
from aios_core.errors import AccessDenied
from aios_core.testing import EventWatcher
from open_interpreter_aios import attach
from open_interpreter_aios.attachment import attachment_of

from .conftest import Boot
from .programs import told

# Refuses lookups and connections, and prints the attempts on standard output.
GUARD = """\
import socket
def refuse(*arguments, **_):
    print("NETWORK", arguments)
    raise OSError("the network is off")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""
SCRIPT = """\
from interpreter import interpreter

interpreter.auto_run = True
for message in interpreter.chat("hello", display=False):
    print(message["role"], "says", message["content"])
"""


@pytest.fixture
def launched() -> Iterator[None]:
    aios_core.install("open_interpreter")
    yield
    aios_core.uninstall()


def echo(request: Any) -> str:
    return f"You said: {request.messages[-1].content}"


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    strange = ("OPENAI_API_KEY", "LITELLM_LOCAL_MODEL_COST_MAP")
    environ = {name: value for name, value in os.environ.items() if name not in strange}
    return subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-W", "ignore", *arguments],
        env=environ
        | {"AIOS_QUIET": "1", "AIOS_STATE__DIRECTORY": ":memory:", "PYTHONPATH": str(cwd)},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unmodified_script_runs_on_the_tiny_model_and_asks_no_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "script.py").write_text(SCRIPT)

    done = python("-m", "aios_core.cli", "run", "script.py", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "assistant says" in done.stdout
    assert "NETWORK" not in done.stdout
    assert "no core serves 'gpt-4o'" in done.stderr


def test_importing_the_adapter_asks_no_network_and_imports_no_framework(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)

    done = python(
        "-c",
        "import sys, aios_core, open_interpreter_aios; aios_core.install()\n"
        "print(sorted({'interpreter', 'litellm', 'openai'} & set(sys.modules)))",
        cwd=tmp_path,
    )

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_installing_before_the_import_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "script.py").write_text(f"import aios_core; aios_core.install()\n{SCRIPT}")

    done = python("script.py", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "assistant says" in done.stdout
    assert "NETWORK" not in done.stdout


def test_a_script_that_wants_code_run_is_refused_clearly_where_nobody_can_be_asked(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""\
            from interpreter import interpreter

            print(interpreter.computer.run("python", "open('mark', 'w')"))
            """)
    )

    done = python("-m", "aios_core.cli", "run", "script.py", cwd=tmp_path)

    assert done.returncode != 0
    assert "ApprovalRefused" in done.stderr
    assert "access.approver" in done.stderr
    assert not (tmp_path / "mark").exists()


@pytest.mark.usefixtures("launched")
def test_interpreters_that_are_made_later_are_attached(
    default: Callable[..., Kernel], watch: EventWatcher
) -> None:
    default(echo)

    said = OpenInterpreter(system_message="").chat("hi", display=False)

    assert told(said) == [("assistant", "message", "You said: hi")]
    assert list(watch.names().values()) == ["interpreter"]


def test_interpreters_that_were_made_before_are_attached_when_they_chat(
    default: Callable[..., Kernel], interpreter: Any, no_network: list[object]
) -> None:
    default(echo)
    aios_core.install("open_interpreter")
    try:
        said = interpreter.chat("hi", display=False)
    finally:
        aios_core.uninstall()

    assert told(said) == [("assistant", "message", "You said: hi")]
    assert no_network == []


@pytest.mark.usefixtures("launched")
def test_the_interpreter_of_the_module_is_attached_at_once() -> None:
    assert attachment_of(theirs) is not None


@pytest.mark.usefixtures("launched")
def test_a_program_that_attaches_by_itself_has_its_way(
    default: Callable[..., Kernel], watch: EventWatcher
) -> None:
    default(echo)
    interpreter = OpenInterpreter(system_message="")
    attach(interpreter, agent="ann")

    interpreter.chat("hi", display=False)

    assert list(watch.names().values()) == ["ann"]


def test_uninstalling_gives_everything_back(interpreter: Any) -> None:
    before = OpenInterpreter.__init__, OpenInterpreter.chat, dict(vars(theirs))

    aios_core.install("open_interpreter")
    made = OpenInterpreter()
    aios_core.uninstall()

    assert before == (OpenInterpreter.__init__, OpenInterpreter.chat, dict(vars(theirs)))
    assert [attachment_of(one) for one in (made, theirs, interpreter)] == [None] * 3
    assert made.llm.completions is fixed_litellm_completions


@pytest.mark.usefixtures("launched")
def test_an_agent_ends_with_its_interpreter(
    default: Callable[..., Kernel], watch: EventWatcher
) -> None:
    default(echo)
    interpreter = OpenInterpreter(system_message="")
    interpreter.chat("hi", display=False)

    del interpreter
    gc.collect()

    watch.wait(EventKind.AGENT_EXITED)


# --- passthrough ---------------------------------------------------------------------------------


class Provider:
    """In the place of LiteLLM: chunks that are objects."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **params: Any) -> Iterator[Any]:
        self.asked.append(params)
        for text in ("from ", "outside"):
            yield {"choices": [{"delta": {"content": text}}]}
        usage = SimpleNamespace(prompt_tokens=11, completion_tokens=2)
        yield {"choices": [], "usage": usage}


def test_passthrough_calls_stay_the_providers_and_are_accounted(
    default: Callable[..., Kernel], interpreter: Any
) -> None:
    kernel = default(echo)
    agent = kernel.spawn("ann")
    provider = interpreter.llm.completions = Provider()
    interpreter.llm.supports_functions, interpreter.llm.context_window = True, 8_000
    attach(interpreter, agent=agent, mode="passthrough")

    said = interpreter.chat("hi", display=False)

    assert told(said) == [("assistant", "message", "from outside")]
    assert (agent.accounting.usage.input_tokens, agent.accounting.usage.output_tokens) == (11, 2)
    assert provider.asked[0]["model"] == "gpt-4o"


def test_passthrough_calls_are_scheduled_by_the_given_kernel(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo)
    interpreter.llm.completions = Provider()
    interpreter.llm.supports_functions, interpreter.llm.context_window = True, 8_000
    attach(interpreter, agent=kernel.spawn("ann"), kernel=kernel, mode="passthrough")

    said = interpreter.chat("hi", display=False)

    assert told(said) == [("assistant", "message", "from outside")]
    assert len(kernel.pool.models) == 2


def test_an_interpreter_that_the_program_attached_stays_attached(
    default: Callable[..., Kernel],
) -> None:
    default(echo)
    aios_core.install("open_interpreter")
    interpreter = OpenInterpreter()
    attachment = attach(interpreter, agent="ann")

    aios_core.uninstall()

    assert attachment_of(interpreter) is attachment


def test_a_passthrough_call_of_an_exited_agent_never_reaches_the_provider(
    default: Callable[..., Kernel], interpreter: Any
) -> None:
    agent = default(echo).spawn("ann")
    provider = interpreter.llm.completions = Provider()
    interpreter.llm.supports_functions, interpreter.llm.context_window = True, 8_000
    attach(interpreter, agent=agent, mode="passthrough")
    agent.exit()

    with pytest.raises((aios_core.SyscallCancelled, AccessDenied)):
        interpreter.chat("hi", display=False)

    assert provider.asked == []


def test_installing_in_mode_passthrough_keeps_the_model_theirs_and_the_code_ours(
    default: Callable[..., Kernel],
) -> None:
    default(echo)
    aios_core.install("open_interpreter", mode="passthrough")
    try:
        made = OpenInterpreter()
        assert "run" not in vars(made.llm)
        assert [one.name for one in made.computer.languages] == ["Python", "Shell"]
    finally:
        aios_core.uninstall()
