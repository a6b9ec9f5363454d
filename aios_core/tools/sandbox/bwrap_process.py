"""Control a process that `bwrap` confines, from outside.

Three processes matter: bwrap itself (`outer`), the first process of the PID namespace (`init`,
also bwrap), and the program. When init dies, Linux kills all others in the namespace, so init
is the process to kill and to wait for. Each is referred to by a pidfd, so that a signal never
reaches another process that got a reused pid.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress

from aios_core.tools.sandbox.backend import Pipes, Usage
from aios_core.tools.sandbox.fd_wait import readable
from aios_core.tools.sandbox.process_memory import memory_of, process_tree
from aios_core.tools.sandbox.tree import Tree


class BwrapProcess:
    """A program confined by bwrap. Implements `backend.Confined`."""

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
        """Take over all descriptors.

        Args:
            outer: bwrap.
            init: the pid and the pidfd of its child.
            program: the pidfd of the program.
            pipes: to the program.
            trees: its /work and its /tmp.
            suspicious: bytes of memory from which on memory is counted exactly.
        """
        self._outer = outer
        self._outer_fd = os.pidfd_open(outer.pid)
        self._init_pid, self._init = init
        self._program = program
        self._pipes = pipes
        self._trees = trees
        self._suspicious = suspicious

    def __repr__(self) -> str:
        return f"<BwrapProcess {self._init_pid}>"

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
        """Wait on a thread until all processes have ended (blocking form of `wait`)."""
        for pidfd in (self._outer_fd, self._init):
            select.select([pidfd], [], [])
        return self._status()

    def _status(self) -> int:
        status = self._outer.wait()
        return 128 - status if status < 0 else status

    def usage(self) -> Usage:
        return Usage(
            memory_of(process_tree(self._init_pid), self._suspicious),
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
