"""What became of a piece of code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Stream = Literal["stdout", "stderr"]

#: Called with each piece of output that is kept, as it comes; must return quickly.
OnOutput = Callable[[Stream, str], None]


class KilledBy(StrEnum):
    """The limit that ended a program before it ended by itself."""

    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    OUTPUT = "output"
    INTERRUPT = "interrupt"  # a cell of a session, by `Session.interrupt`
    LIFE = "life"  # the session that it ran in


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Paths in the directory of files, "/" between their parts, in order."""

    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # links, devices, names that are no UTF-8, beyond a limit

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.skipped)


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """Output is UTF-8 with replacement characters where it was not.

    `exit_code` is that of the process, 128 + n if signal n ended it; for the cell of a
    session 0, or 1 if it raised, and then the traceback is at the end of `stderr`.
    """

    stdout: str
    stderr: str
    exit_code: int
    duration_s: float
    killed_by: KilledBy | None = None
    truncated: bool = False  # output was cut
    value: str | None = None  # of a cell: its last expression, as `repr` says it
    notice: str | None = None  # what its reader has to know besides, in words
    files: FileChanges = FileChanges()
    labels: frozenset[str] = frozenset()  # where the files come from that the code could read

    @property
    def figures(self) -> tuple[str, ...]:
        """The pictures among the files that it wrote, such as figures of matplotlib."""
        return tuple(path for path in self.files.written if path.endswith(".png"))

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0 and self.killed_by is None
