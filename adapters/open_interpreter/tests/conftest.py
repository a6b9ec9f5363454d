"""Interpreters and kernels for the adapter's tests: closed, checked and empty when a test ends.

Where Open Interpreter is not installed (it needs an environment of its own:
`make test-interpreter`) nothing here is collected.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig, ToolContext, set_default_kernel
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import KernelClosed
from aios_core.testing import EventWatcher, cooperative_script

Boot = Callable[..., Kernel]
OnOutput = Callable[[str, str], None]

CELL = Path(__file__).with_name("cell.py")

IS_THERE = importlib.util.find_spec("interpreter") is not None
collect_ignore_glob = [] if IS_THERE else ["test_*.py"]

if IS_THERE:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of pkg_resources and of pydantic
        from interpreter import OpenInterpreter

QUIET = KernelConfig(state=StateConfig(directory=":memory:"), access=AccessConfig(approver="allow"))


class Runner:
    """Runs these tests' own code in plain processes, in the place of the sandbox."""

    def __init__(self, directory: Path) -> None:
        self.ran: list[tuple[str, str]] = []  # owner, language
        self.sessions: dict[tuple[str, str], Path] = {}  # owner, name of the session
        self.notice: str | None = None  # shown with the next cell
        self.figures: tuple[str, ...] = ()  # files that cells report as written
        self._directory = directory

    async def run_for(
        self, identity: str, language: str, code: str, *, on_output: OnOutput, **_: Any
    ) -> Any:
        self.ran.append((identity, language))
        assert language == "shell"
        exit_code = await _finished(["sh", "-c", code], on_output)
        return SimpleNamespace(value=None, notice=None, exit_code=exit_code, figures=())

    async def run_in_session(
        self, identity: str, name: str, code: str, *, on_output: OnOutput, **_: Any
    ) -> Any:
        """The variables are passed on in a file, since each cell is a process of its own."""
        self.ran.append((identity, "python"))
        kept = self.sessions.setdefault((identity, name), self._directory / str(len(self.ran)))
        program = [sys.executable, "-I", "-u", str(CELL), str(kept), code]
        exit_code = await _finished(program, on_output)
        value = kept.with_suffix(".value")
        shown = value.read_text() if value.exists() else None
        return SimpleNamespace(
            value=shown, notice=self.notice, exit_code=exit_code, figures=self.figures
        )

    async def end_session(self, identity: str, name: str) -> bool:
        return self.sessions.pop((identity, name), None) is not None


async def _finished(program: list[str], on_output: OnOutput) -> int:
    work = await asyncio.create_subprocess_exec(
        *program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert work.stdout is not None
    try:
        while piece := await work.stdout.read(4096):
            on_output("stdout", piece.decode())
        return await work.wait()
    except asyncio.CancelledError:
        work.kill()
        await work.wait()
        raise


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse every host lookup and connection, and record the attempts."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> Any:
        tried.append(arguments)
        raise OSError(f"the network is off: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    """In the place of the sandbox."""
    runner = Runner(tmp_path)
    monkeypatch.setattr(ToolContext, "code_runner", property(lambda _: runner))
    return runner


@pytest.fixture
def interpreter() -> Any:
    """A new one, as a program makes it."""
    return OpenInterpreter(system_message="")


@pytest.fixture
def watch() -> EventWatcher:
    """Sees every event of the kernels that `boot` starts."""
    return EventWatcher()


@pytest.fixture
def boot(watch: EventWatcher) -> Iterator[Boot]:
    """Start kernels on threads of their own, each with one scripted core."""
    from open_interpreter_aios.interpreter_agent import directory  # noqa: PLC0415 - where it is installed

    started: list[Kernel] = []

    def start(
        script: Any = cooperative_script, *, approver: Any = "allow", **settings: Any
    ) -> Kernel:
        core = ScriptedCore(script, **settings)
        config = replace(QUIET, access=AccessConfig(approver=approver))
        started.append(Kernel(config, cores=[core], observers=[watch]).start())
        return started[-1]

    yield start
    for kernel in started:
        with suppress(KernelClosed):  # a test closed it
            kernel.check()
        kernel.close(0)
    directory.check()


@pytest.fixture
def kernel(boot: Boot) -> Kernel:
    """A kernel that does what it is asked to."""
    return boot()


@pytest.fixture
def as_default(kernel: Kernel) -> Iterator[Kernel]:
    """Make the kernel of this test the default kernel."""
    former = set_default_kernel(kernel)
    yield kernel
    set_default_kernel(former)


@pytest.fixture
def default(boot: Boot) -> Iterator[Callable[..., Kernel]]:
    """Start a kernel with a script, as the kernel of the process."""
    former = set_default_kernel(None)

    def start(script: Any, **settings: Any) -> Kernel:
        kernel = boot(script, **settings)
        set_default_kernel(kernel)
        return kernel

    yield start
    set_default_kernel(former)
