"""A tier: one way to confine code, if this machine has it.

A tier starts a program that can reach nothing but what it was given, and hands
back the process. It runs no code outside. Which tiers there are is the table in
`detection`.

A program sees `/work`, its own directory, which is empty at first and bounded,
`/tmp`, the read-only system, and its `documents`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.tree import Tree

WORK: Final = "/work"
DOCUMENTS: Final = "/run/aios"


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. `argv[0]` is looked for inside.

    A program with `has_control` has two further pipes; the descriptors to read from and
    to write to are the last two arguments that it is given.
    """

    argv: tuple[str, ...]
    limits: Limits
    documents: Mapping[str, bytes] = field(default_factory=dict)  # name -> content, in DOCUMENTS
    environment: Mapping[str, str] = field(default_factory=dict)
    has_control: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)  # place below `packages.PACKAGES` ->
    # path of the host, to be seen there, read-only


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a tier works here. `said` is how it is; `mend` how to get it."""

    is_there: bool
    said: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a confined program uses at one moment."""

    memory_bytes: int
    num_files: int


@dataclass(slots=True)
class Pipes:
    """Descriptors of this process's ends. -1: closed, or not there."""

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
    """A started program that waits for `release`, and then for its end.

    Invariant: once `wait` has returned, no process of it is alive.
    """

    @property
    def work(self) -> Tree:
        """Its /work, which outlives it until `close`."""

    @property
    def pipes(self) -> Pipes:
        """This process's ends, non-blocking; `close` closes those that are open."""

    def release(self) -> None:
        """Let the program begin; until then only the tier's own code runs."""

    def interrupt(self) -> None:
        """Send it SIGINT."""

    def kill(self) -> None:
        """End all its processes now. May be called again, and after the end."""

    async def wait(self) -> int:
        """The exit status, 128 + n for signal n."""

    def wait_blocking(self) -> int:
        """The same, for a thread."""

    def usage(self) -> Usage:
        """Blocks for a moment: not for an event loop."""

    def close(self) -> None:
        """Free descriptors, after `wait`."""


class Tier(Protocol):
    """Its methods block; `Sandbox` calls them on threads that outlive what they start."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def python(self) -> str:
        """The Python interpreter inside. Raises `SandboxUnavailable` if there is none."""

    def examine(self) -> Availability:
        """Try it with a harmless program."""

    def start(self, program: Program) -> Confined:
        """Start a program.

        Raises:
            SandboxUnavailable: it cannot be confined, so it does not run.
        """
