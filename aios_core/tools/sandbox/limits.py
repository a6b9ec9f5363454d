"""What confined code may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20

#: A stream that is longer than its limit by this factor ends the program.
FLOOD_FACTOR: Final = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run, or of a session for its whole life (`wall_s`: of one of its cells)."""

    wall_s: float = 60.0
    cpu_s: int = 60  # of one process
    memory_bytes: int = 1024 * MIB  # of all processes together; one may map twice as much
    processes: int = 64  # and threads
    open_files: int = 256  # of one process
    disk_bytes: int = 256 * MIB  # of /work, and as much again of /tmp; one file may be as large
    files: int = 20_000  # of /work, and of /tmp
    output_bytes: int = 1 * MIB  # of stdout, and of stderr; what is beyond is cut

    def prlimit_options(self) -> list[str]:
        """The part that the kernel enforces for each process, for prlimit(1).

        One second after the soft limit of CPU time, which a program can ignore, comes the hard
        one, which it cannot.
        """
        mapped = 2 * self.memory_bytes
        return [
            f"--cpu={self.cpu_s}:{self.cpu_s + 1}",
            f"--as={mapped}:{mapped}",
            f"--nproc={self.processes}:{self.processes}",
            f"--nofile={self.open_files}:{self.open_files}",
            f"--fsize={self.disk_bytes}:{self.disk_bytes}",
            "--core=0:0",
            "--memlock=0:0",
            "--msgqueue=0:0",
        ]
