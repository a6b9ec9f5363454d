"""The default kernel: started at first use, closed at exit, one for each process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from aios_core import Kernel, KernelConfig, default_kernel, set_default_kernel
from aios_core.cores import ScriptedCore
from tests.puppet import PATIENCE

PRELUDE = """
import os, sys, threading
import aios_core.kernel.default as embedded
from aios_core import Kernel, KernelConfig, default_kernel
from aios_core.cores import ScriptedCore

embedded.Kernel = lambda config, *, cores=None: Kernel(
    KernelConfig(), cores=cores or [ScriptedCore("hello", latency_s=0.01)]
)
"""


def run(program: str) -> str:
    """Run a program. Returns its output; it must end by itself, without an error."""
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_embedded_kernel_can_be_replaced() -> None:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        former = set_default_kernel(kernel)
        try:
            assert default_kernel() is kernel
            assert default_kernel().spawn("a").llm.generate("hello").text == "hi"
        finally:
            assert set_default_kernel(former) is kernel


def test_a_program_that_closes_nothing_ends_well() -> None:
    said = run(
        """
        print(default_kernel() is default_kernel())
        print(default_kernel().spawn("a").llm.generate("hi").text)
        """
    )

    assert said == "True\nhello\n"


def test_threads_that_ask_first_share_one_kernel() -> None:
    said = run(
        """
        kernels = []
        ask = lambda: kernels.append(default_kernel())
        threads = [threading.Thread(target=ask) for _ in "1234"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(kernels), len(set(map(id, kernels))))
        """
    )

    assert said == "4 1\n"


def test_a_program_that_exits_while_a_call_is_under_way_ends_well() -> None:
    said = run(
        """
        embedded.Kernel = lambda *_, **__: Kernel(
            KernelConfig(drain_s=0.0), cores=[ScriptedCore("late", latency_s=3600)]
        )
        agent = default_kernel().spawn("a")
        def ask():
            try:
                agent.llm.generate("hi")
            except Exception as exc:
                print(type(exc).__name__, flush=True)
        threading.Thread(target=ask, daemon=True).start()
        while not agent._process.live_calls: pass
        """
    )

    assert said in {"KernelClosed\n", ""}


@pytest.mark.slow  # forking a program with threads is the interpreter's risk as well as ours
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_the_child_has_a_kernel_of_its_own_and_ends_well() -> None:
    said = run(
        """
        kernel = default_kernel()
        agent = kernel.spawn("a")
        child = os.fork()
        if child == 0:
            try:
                agent.llm.generate("hi")
            except Exception as exc:
                print(type(exc).__name__)
            print(default_kernel() is not kernel)
            print(default_kernel().spawn("b").llm.generate("hi").text, flush=True)
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        print(status, agent.llm.generate("hi").text)
        """
    )

    assert said == "KernelClosed\nTrue\nhello\n0 hello\n"


def forked(setup: str, child: str) -> str:
    """Run a program that sets up a parent and forks. Returns the child's output."""
    program = f"""
{textwrap.dedent(setup)}
child = os.fork()
if child == 0:
    try:
{textwrap.indent(textwrap.dedent(child), "        ")}
    except Exception as exc:
        print(f"{{type(exc).__name__}}: {{exc}}", flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
print(status)
"""
    return run(program)


SET = """
    from aios_core import set_default_kernel
    from aios_core.config import CoreConfig
    from aios_core.testing.stub_server import StubServer
    server = StubServer()
    server.__enter__()
    core = CoreConfig("openai", name="mine", models=("stub",), base_url=server.base_url)
    config = KernelConfig(cores=(core,), drain_s=0.5)
    kernel = Kernel(config, policy="fair", approver=lambda request: True).start()
    set_default_kernel(kernel)
"""
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.mark.slow
@fork
def test_a_forked_child_is_served_by_the_configuration_that_its_parent_set() -> None:
    said = forked(
        SET,
        """
        own = default_kernel()
        print(own is not kernel, own.config == config, own._policy.name, default_kernel() is own)
        print([core.name for core in own.pool], own._given.approver is kernel._given.approver)
        print(own.spawn("a").llm.generate("hi").text, flush=True)
        """,
    )

    assert said == "True True fair True\n['mine'] True\nok\n0\n"


@pytest.mark.slow
@fork
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cores=[ScriptedCore('mine')]", "cores"),
        ("embedder=Double()", "an embedder"),
        ("gatekeeper=Double()", "a gatekeeper"),
        ("approver=Double()", "an approver"),
    ],
)
def test_a_forked_child_is_refused_what_only_its_parent_has(given: str, name: str) -> None:
    said = forked(
        f"""
        from unittest.mock import Mock as Double
        from aios_core import set_default_kernel
        set_default_kernel(Kernel(KernelConfig(), {given}))
        """,
        "default_kernel()",
    )

    assert said.startswith("KernelClosed: this process was forked, and the kernel of its parent")
    assert f"was given {name} as objects" in said
    assert said.endswith("\n0\n")


@pytest.mark.slow
@fork
def test_a_forked_child_has_the_cores_that_its_parents_embedded_kernel_was_made_with() -> None:
    said = forked(
        """
        embedded.Kernel = Kernel
        make = lambda: [ScriptedCore("hi", models=["mine"])]
        default_kernel(cores=make)
        """,
        "print(default_kernel().pool.models, flush=True)",
    )

    assert said == "('mine',)\n0\n"


@pytest.mark.slow
@fork
@pytest.mark.parametrize(
    "use",
    [
        "agent.llm.generate('hi')",
        "agent.llm.measure('hi')",
        "agent.llm.stream('hi')",
        "agent.memory.write('a', 'b')",
        "kernel.spawn('b')",
        "asyncio.run(agent.llm.agenerate('hi'))",
        "asyncio.run(agent.memory.awrite('a', 'b'))",
    ],
)
def test_an_inherited_kernel_says_that_it_runs_in_the_parent(use: str) -> None:
    said = forked("import asyncio\nkernel = default_kernel()\nagent = kernel.spawn('a')", use)

    assert said.startswith("KernelClosed: the kernel runs in process ")
    assert "from which this one was forked" in said


@pytest.mark.slow
@fork
def test_a_lock_that_another_thread_held_is_free_in_a_forked_child() -> None:
    said = run(
        """
        kernel = default_kernel()
        held, done = threading.Event(), threading.Event()
        def hold():
            with embedded._lock:
                held.set()
                done.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            print(default_kernel().spawn("b").llm.generate("hi").text, flush=True)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        done.set()
        thread.join()
        """
    )

    assert said == "hello\n0\n"
