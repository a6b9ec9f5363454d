"""The result of running code in the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Stream = Literal["stdout", "stderr"]

#: Called with each fragment of the kept output, as it arrives; must return quickly.
OnOutput = Callable[[Stream, str], None]


class KilledBy(StrEnum):
    """The limit that ended a program before it ended by itself."""

    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    OUTPUT = "output"
    INTERRUPT = "interrupt"  # a cell of a session was interrupted by `Session.interrupt`
    LIFE = "life"  # its session reached its maximum lifetime or idle time


@dataclass(frozen=True, slots=True)
class FileChanges:
    """The changed paths below the working directory, sorted, with "/" as separator."""

    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # links, devices, names that are not UTF-8, beyond a limit

    def __bool__(self) -> bool:
        return bool(self.written or self.removed or self.skipped)


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The result of running code: output, exit code, changed files, limits reached.

    Output that is not UTF-8 has replacement characters. `exit_code` is that of the process, and
    128 + n if signal n ended it. For a cell of a session it is 0, or 1 if the cell raised; then
    the traceback is at the end of `stderr`.
    """

    stdout: str
    stderr: str
    exit_code: int
    duration_s: float
    killed_by: KilledBy | None = None
    truncated: bool = False  # output was cut
    value: str | None = None  # of a cell: the `repr` of its last expression
    notice: str | None = None  # for the reader: a limit that was reached, a session that was lost
    files: FileChanges = FileChanges()
    labels: frozenset[str] = frozenset()  # the sources of the files that the code could read

    @property
    def figures(self) -> tuple[str, ...]:
        """The PNG files among those that the code wrote, such as figures of matplotlib."""
        return tuple(path for path in self.files.written if path.endswith(".png"))

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0 and self.killed_by is None
