"""MCP servers that a test starts, over pipes and over HTTP, and waits until they have exited."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from aios_core.testing.leftovers import Leftovers

PROGRAM = str(Path(__file__).with_name("mcp_server.py"))
PATIENT_S = 60.0  # a server starts in half a second, on a busy machine in many


class Marks:
    """The events of a server, by the files that it leaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def of(self, name: str) -> list[int]:
        """Return the processes that reported an event."""
        return [int(file.suffix[1:]) for file in self.directory.glob(f"{name}.*")]

    def wait(self, name: str, number: int = 1) -> None:
        """Wait until that many processes have reported an event."""
        until(lambda: len(self.of(name)) >= number, f"no server {name}")


class Site:
    """A server over HTTP, in a process that a test may kill."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, PROGRAM, "http", str(self.port)],
            stdout=subprocess.PIPE,
            env={"MARKS": str(self._marks.directory), "PATH": ""},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def all_gone_but(before: frozenset[int]) -> None:
    """Wait until the child processes that were not there before have ended."""
    until(lambda: not Leftovers.now().children - before, "a process goes on")


def gone(pid: int) -> None:
    """Wait until a process has ended."""
    until(lambda: pid not in Leftovers.now().children, f"process {pid} goes on")


def until(holds: Callable[[], object], otherwise: str) -> None:
    """Wait for something outside of this process; only a failing test waits for the whole limit."""
    pause = threading.Event()
    for _ in range(int(PATIENT_S / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError(otherwise)
