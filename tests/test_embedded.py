"""The embedded kernel: started at first use, closed at exit, one for each process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from aios_core import Kernel, KernelConfig, default_kernel, set_default_kernel
from aios_core.cores import ScriptedCore

from .puppet import PATIENCE

PRELUDE = """
import os, sys, threading
import aios_core.embedded as embedded
from aios_core import Kernel, KernelConfig, default_kernel
from aios_core.cores import ScriptedCore

embedded.Kernel = lambda: Kernel(
    KernelConfig(), cores=[ScriptedCore("hello", latency_s=0.01)]
)
"""


def run(program: str) -> str:
    """What a program of its own prints; it must end by itself, and well."""
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
        embedded.Kernel = lambda: Kernel(
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
