"""The interface of isolation backends: each is one way to confine code on some machines.

A backend starts a program that can access only what it was given, and returns the process. It
never runs code unconfined. `detection` has the table of backends.

A program has `/work`, its own directory, which is empty at first and bounded, `/tmp`, the
read-only system, and its `documents`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.tree import Tree

WORK: Final = "/work"
DOCUMENTS: Final = "/run/aios"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start. `argv[0]` is looked up inside the sandbox.

    A program with `has_control` has two further pipes; the descriptors to read from and
    to write to are its last two arguments.
    """

    argv: tuple[str, ...]
    limits: SandboxLimits
    documents: Mapping[str, bytes] = field(default_factory=dict)  # name -> content, in DOCUMENTS
    environment: Mapping[str, str] = field(default_factory=dict)
    has_control: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)  # place below `packages.PACKAGES` ->
    # path of the host, which is bound there read-only


@dataclass(frozen=True, slots=True)
class Availability:
    """The finding whether a backend works on this machine, with a reason and a fix."""

    is_available: bool
    reason: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a confined program uses at one moment."""

    memory_bytes: int
    num_files: int


@dataclass(slots=True)
class Pipes:
    """The descriptors of this process's ends of the pipes; -1 if closed or not made."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    control_in: int = -1  # to write to
    control_out: int = -1  # to read from

    def close(self) -> None:
        for each in fields(self):
            self.close_one(each.name)

    def close_one(self, name: str) -> None:
        if (descriptor := getattr(self, name)) >= 0:
            setattr(self, name, -1)
            os.close(descriptor)


class Confined(Protocol):
    """A confined program, which starts to run at `release`.

    Invariant: once `wait` has returned, none of its processes is alive.
    """

    @property
    def work(self) -> Tree:
        """The directory /work, accessible until `close`, even after the program has ended."""

    @property
    def pipes(self) -> Pipes:
        """This process's ends of the pipes, non-blocking; `close` closes those that are open."""

    def release(self) -> None:
        """Let the program start; until then only code of the backend runs."""

    def interrupt(self) -> None:
        """Send SIGINT to the program."""

    def kill(self) -> None:
        """Kill all its processes. May be called again, and after the end."""

    async def wait(self) -> int:
        """Wait until all its processes have ended.

        Returns:
            The exit status; 128 + n for signal n.
        """

    def wait_blocking(self) -> int:
        """Wait on a thread until all its processes have ended (blocking form of `wait`)."""

    def usage(self) -> Usage:
        """Measure the resources in use. Blocks for a moment: do not call it on an event loop."""

    def close(self) -> None:
        """Free all descriptors. Call it after `wait`."""


class SandboxBackend(Protocol):
    """An isolation backend. Its methods block; the threads that call them outlive the programs."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def python(self) -> str:
        """The Python interpreter inside. Raises `SandboxUnavailable` if there is none."""

    def examine(self) -> Availability:
        """Try the backend with a harmless program."""

    def start(self, program: Program) -> Confined:
        """Start a program.

        Raises:
            SandboxUnavailable: it cannot be confined, so it does not run.
        """
