"""Fixtures for pytest: a kernel that needs no model, and is checked when the test ends.

Put this into a `conftest.py`:

    pytest_plugins = ["aios_core.testing.pytest_plugin"]

and script the core in a test module by overriding `script`:

    @pytest.fixture
    def script():
        return {"2+2?": "4"}

    def test_my_agent_adds(kernel):
        assert kernel.spawn("adder").llm.generate("2+2?").text == "4"

It is not registered as an entry point, since that would import the kernel into
every pytest run of the environment, before coverage is measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios_core.config import ContextConfig, KernelConfig, StateConfig
from aios_core.cores.scripted import Script, ScriptedCore
from aios_core.kernel import Kernel
from aios_core.process import RunawayGuard
from aios_core.state import MEMORY
from aios_core.testing.leftovers import nothing_left


@pytest.fixture
def script() -> Script:
    """Return the model's answers; override it. By default, the last message is repeated."""
    return lambda request: request.last_text


@pytest.fixture
def scripted_core(script: Script) -> ScriptedCore:
    """Return the core of `kernel`; its `requests` lists the requests that it received."""
    return ScriptedCore(script)


@pytest.fixture
def kernel(
    scripted_core: ScriptedCore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    """A running kernel on `scripted_core`, usable from threads and from any event loop.

    When the test ends the invariants of the kernel are checked, it is closed, and
    the test fails if a call has no answer, or if a thread, task, child process or
    file is left.
    """
    directory = tmp_path_factory.mktemp("contexts")
    config = KernelConfig(
        context=ContextConfig(directory=str(directory)),
        state=StateConfig(directory=MEMORY),
        guard=RunawayGuard(max_repeats=None),
        drain_s=0.0,
    )
    with nothing_left(), Kernel(config, cores=[scripted_core]) as running:
        yield running
        running.check()
    assert_all_answered(running)
    assert not list(directory.iterdir()), "files of the context switcher are left"


def assert_all_answered(kernel: Kernel) -> None:
    """Every call that a closed kernel accepted was answered."""
    unanswered = [call.syscall for call in kernel._inside.parts.dispatcher._calls.values()]  # noqa: SLF001
    assert not unanswered, f"calls without an answer: {unanswered}"
