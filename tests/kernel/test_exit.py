"""Programs that end badly: without closing, by Ctrl-C, next to another kernel.

Each is a process of its own, checked from outside: its output, and what it leaves.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from aios_core.access.audit.inspection import Inspection
from aios_core.state import NullCipher
from tests.puppet import PATIENCE

PRELUDE = """
import asyncio, os, signal, sys, threading
from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore

def make(core=None, **options):
    config = KernelConfig.load(environ={}, state={"directory": sys.argv[1]}, drain_s=0.0)
    return Kernel(config, cores=[core or ScriptedCore("hello")], **options)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(directory)],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )


def events(directory: Path) -> list[tuple[str, str]]:
    trail = Inspection(directory, NullCipher())
    assert trail.verified().faults == ()
    contents = [trail.content(row) or {} for row in trail.rows]
    return [(one["event"], one["action"]) for one in contents]


def test_a_kernel_that_nobody_closes_is_closed_with_the_program(tmp_path: Path) -> None:
    program = """
        kernel = make().start()
        agent = kernel.spawn("a")
        agent.memory.write("x", "1")
        agent.storage.write("f", "1")
        """
    for _ in range(2):
        done = run(program, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    once = [
        ("allowed", "memory.write"),
        ("done", "memory.write"),
        ("allowed", "storage.write"),
        ("done", "storage.write"),
    ]
    assert events(tmp_path) == 2 * once


def test_threads_that_outlive_the_main_one_keep_their_kernel(tmp_path: Path) -> None:
    done = run(
        """
        agent = make(ScriptedCore("hello", latency_s=0.02)).start().spawn("a")
        def work():
            for _ in range(20):
                agent.llm.generate("hi")
                agent.memory.append("x", "1")
            print(agent.memory.read("x"))
        threading.Thread(target=work).start()
        """,
        tmp_path,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{20 * '1'}\n", "")


def test_a_thread_that_waits_for_the_end_does_not_stop_it(tmp_path: Path) -> None:
    done = run(
        """
        import aios_core.kernel.exit
        aios_core.kernel.exit.IDLE_S = 0.1
        kernel = make().start()
        threading.Thread(target=threading.main_thread().join).start()
        """,
        tmp_path,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ctrl_c_while_a_kernel_starts_says_nothing_else(tmp_path: Path) -> None:
    done = run(
        """
        class Slow(ScriptedCore):
            async def start(self, *args, **kwargs):
                interrupt()
                await asyncio.Event().wait()
        with make(Slow("hello")): pass
        """,
        tmp_path,
    )

    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_ctrl_c_while_an_approval_is_waited_for_says_nothing_else(tmp_path: Path) -> None:
    done = run(
        """
        class Nobody:
            async def ask(self, request):
                try:
                    interrupt()
                    await asyncio.Event().wait()
                finally:
                    await asyncio.shield(asyncio.to_thread(threading.Event().wait, 0.1))
        with make(approver=Nobody()) as kernel:
            kernel.spawn("a").access.ask("send the letter")
        """,
        tmp_path,
    )

    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert events(tmp_path) == [("asked", "access.ask"), ("withdrawn", "access.ask")]


def test_a_second_kernel_on_a_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run(
        """
        with make() as first, make() as second:
            first.spawn("a").memory.write("x", "1")
            agent = second.spawn("a")
            try:
                agent.memory.write("x", "1")
            except Exception as exc:
                print(exc)
        """,
        tmp_path,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "is used by another kernel (process " in done.stdout
