"""The resource limits of confined code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20

#: A stream that is longer than its limit by this factor ends the program.
FLOOD_FACTOR: Final = 16


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The limits of one run, or of a session over its lifetime (`wall_s`: of each cell)."""

    wall_s: float = 60.0
    cpu_s: int = 60  # of one process
    memory_bytes: int = 1024 * MIB  # of all processes together; one may map twice as much
    max_processes: int = 64  # and threads
    max_open_files: int = 256  # of one process
    disk_bytes: int = 256 * MIB  # of /work, and as much again of /tmp; one file may be as large
    max_files: int = 20_000  # of /work, and of /tmp
    output_bytes: int = 1 * MIB  # of stdout, and of stderr; further output is cut

    def prlimit_options(self) -> list[str]:
        """Return the options of prlimit(1) for the limits that Linux enforces on a process.

        The hard limit of CPU time, which a program cannot ignore, follows one second after the
        soft one, which it can.
        """
        mapped = 2 * self.memory_bytes
        return [
            f"--cpu={self.cpu_s}:{self.cpu_s + 1}",
            f"--as={mapped}:{mapped}",
            f"--nproc={self.max_processes}:{self.max_processes}",
            f"--nofile={self.max_open_files}:{self.max_open_files}",
            f"--fsize={self.disk_bytes}:{self.disk_bytes}",
            "--core=0:0",
            "--memlock=0:0",
            "--msgqueue=0:0",
        ]
