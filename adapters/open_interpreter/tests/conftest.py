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
from types import SimpleNamespace
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig, ToolContext, set_default_kernel
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import KernelClosed
from aios_core.testing import Watch, obliging

Boot = Callable[..., Kernel]

IS_THERE = importlib.util.find_spec("interpreter") is not None
collect_ignore_glob = [] if IS_THERE else ["test_*.py"]

if IS_THERE:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of pkg_resources and of pydantic
        from interpreter import OpenInterpreter

QUIET = KernelConfig(state=StateConfig(directory=":memory:"), access=AccessConfig(approver="allow"))


class Runner:
    """Runs these tests' own code in a plain process, in the place of the sandbox."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []  # whose, in which language

    async def run_for(self, identity: str, language: str, code: str, **_: Any) -> Any:
        self.ran.append((identity, language))
        program = [sys.executable, "-I"] if language == "python" else ["sh"]
        work = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await work.communicate(code.encode())
        except asyncio.CancelledError:
            work.kill()
            await work.wait()
            raise
        return SimpleNamespace(
            stdout=out.decode(), stderr=err.decode(), notice=None, exit_code=work.returncode
        )


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whoever looks up a host or connects to one is refused, and a test can see who tried."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> Any:
        tried.append(arguments)
        raise OSError(f"the network is off: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """In the place of the sandbox."""
    runner = Runner()
    monkeypatch.setattr(ToolContext, "code_runner", property(lambda _: runner))
    return runner


@pytest.fixture
def interpreter() -> Any:
    """A new one, as a program makes it."""
    return OpenInterpreter(system_message="")


@pytest.fixture
def watch() -> Watch:
    """Sees every event of the kernels that `boot` starts."""
    return Watch()


@pytest.fixture
def boot(watch: Watch) -> Iterator[Boot]:
    """Start kernels on threads of their own, each with one scripted core."""
    from open_interpreter_aios.seat import directory  # noqa: PLC0415 - where it is installed

    started: list[Kernel] = []

    def start(script: Any = obliging, *, approver: Any = "allow", **settings: Any) -> Kernel:
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
    """The same, as the kernel of the process."""
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
