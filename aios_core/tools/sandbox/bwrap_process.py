"""A process that `bwrap` confines, seen from outside.

Three processes matter: bwrap itself (`outer`), the first one in the namespace of
processes (`init`, also bwrap), and the program. When init dies the kernel kills all
that are left in the namespace, so it is the one to kill and the one to wait for.
Each is held by a pidfd: a number that was given to another process is never
signalled.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress

from aios_core.tools.sandbox.backend import Pipes, Usage
from aios_core.tools.sandbox.fd_wait import readable
from aios_core.tools.sandbox.process_memory import family, memory_of
from aios_core.tools.sandbox.tree import Tree


class Jailed:
    """See the module, and `backend.Confined`."""

    def __init__(
        self,
        outer: subprocess.Popen[bytes],
        *,
        init: tuple[int, int],
        program: int,
        pipes: Pipes,
        trees: tuple[Tree, Tree],
        suspicious: int,
    ) -> None:
        """Takes over every descriptor.

        Args:
            outer: bwrap.
            init: the pid and the pidfd of its child.
            program: the pidfd of the program.
            pipes: to the program.
            trees: its /work and its /tmp.
            suspicious: bytes of memory from which on they are counted exactly.
        """
        self._outer = outer
        self._outer_fd = os.pidfd_open(outer.pid)
        self._init_pid, self._init = init
        self._program = program
        self._pipes = pipes
        self._trees = trees
        self._suspicious = suspicious

    def __repr__(self) -> str:
        return f"<Jailed {self._init_pid}>"

    @property
    def work(self) -> Tree:
        return self._trees[0]

    @property
    def pipes(self) -> Pipes:
        return self._pipes

    def release(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipes.stdin, b"\n")

    def interrupt(self) -> None:
        _signal(self._program, signal.SIGINT)

    def kill(self) -> None:
        _signal(self._init, signal.SIGKILL)

    async def wait(self) -> int:
        await readable(self._outer_fd)
        await readable(self._init)
        return self._status()

    def wait_blocking(self) -> int:
        """The same, for a thread."""
        for pidfd in (self._outer_fd, self._init):
            select.select([pidfd], [], [])
        return self._status()

    def _status(self) -> int:
        status = self._outer.wait()
        return 128 - status if status < 0 else status

    def usage(self) -> Usage:
        return Usage(
            memory_of(family(self._init_pid), self._suspicious),
            max(tree.num_files() for tree in self._trees),
        )

    def close(self) -> None:
        self._pipes.close()
        for descriptor in (self._outer_fd, self._init, self._program):
            os.close(descriptor)
        for tree in self._trees:
            os.close(tree.descriptor)


def _signal(pidfd: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
