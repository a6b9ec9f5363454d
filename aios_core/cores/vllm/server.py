"""One server process: start it, follow its log, notice its end, stop it.

The server is the child of a guardian (`aios_core.guardian`), which ends it with all its workers
when this process dies, even by kill -9. All of its output is its log. The log is read as it
comes, so that the server never blocks on a full pipe; its last lines are kept.

Used on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from aios_core.guarded_program import KILL_S, Lifeline, kill_group, start_guarded
from aios_core.shielding import finish_shielded

log = logging.getLogger(__name__)

TAIL_LINES: Final = 30
_MAX_LINE: Final = 2_000  # characters kept of one line
_READ_BYTES: Final = 65_536
_BREAKS: Final = re.compile(r"[\r\n]+")  # a progress bar returns the carriage

# What a line of the log shows about the start, in the order of the stages.
_STAGES: Final = (
    (re.compile(r"Downloading|Fetching \d+ files"), "downloading the model"),
    (re.compile(r"Starting to load model|Loading \S*\s?checkpoint"), "loading the weights"),
    (re.compile(r"torch\.compile|Compiling a graph"), "compiling"),
    (re.compile(r"KV cache size"), "allocating KV memory"),
    (re.compile(r"Capturing .*graph"), "capturing graphs"),
)


def stage_of(line: str) -> str | None:
    """Return the stage of the start that a line of the log shows, if any."""
    return next((stage for pattern, stage in _STAGES if pattern.search(line)), None)


def free_port() -> int:
    """Return a port of this machine that is free at present."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class ServerProcess:
    """A server process, from its start to its end.

    Args:
        core: the name of its core, for the log.
        on_line: called with each line of the server's log.
        on_exit: called once when the server has ended, for any reason.
    """

    def __init__(
        self, core: str, *, on_line: Callable[[str], None], on_exit: Callable[[], None]
    ) -> None:
        self._core = core
        self._on_line = on_line
        self._on_exit = on_exit
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lifeline: Lifeline | None = None
        self._process: Process | None = None
        self._following: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ServerProcess of {self._core!r}: {'running' if self.is_running else 'ended'}>"

    @property
    def is_running(self) -> bool:
        """Whether the server has started and not ended."""
        return self._following is not None and not self._following.done()

    @property
    def exit_status(self) -> int | None:
        """The status with which the server ended; negative: the signal that ended it."""
        return None if self._process is None else self._process.returncode

    @property
    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self._tail)

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the server. Raises `OSError`."""
        lifeline = self._lifeline = Lifeline()
        # In a session of its own, Ctrl-C reaches the kernel alone, which stops the server.
        self._process = await start_guarded(
            lifeline, command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=dict(environment)
        )
        self._following = asyncio.get_running_loop().create_task(self._follow(self._process))
        self._following.set_name(f"{self._core}-server")

    async def stop(self, grace_s: float) -> None:
        """End the server: ask it first, and kill it and its workers after `grace_s`. Idempotent."""
        await finish_shielded(self._end(grace_s))

    async def _end(self, grace_s: float) -> None:
        process, following = self._process, self._following
        if process is None or following is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)  # the guardian ignores it
            await asyncio.wait([following], timeout=grace_s)
        if self._lifeline is not None:
            self._lifeline.cut()  # the guardian kills what is left
        if not following.done():
            await asyncio.wait([following], timeout=KILL_S)
        if process.returncode is None:
            kill_group(process.pid)
        await asyncio.wait([following])

    async def _follow(self, process: Process) -> None:
        try:
            if process.stdout is not None:
                await self._read_log(process.stdout)
            await process.wait()
        finally:
            self._on_exit()

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        rest = ""
        while data := await stream.read(_READ_BYTES):
            *lines, rest = _BREAKS.split(rest + data.decode(errors="replace"))
            rest = rest[-_MAX_LINE:]
            for line in lines:
                self._take(line)
        self._take(rest)

    def _take(self, line: str) -> None:
        if line := line.strip()[:_MAX_LINE]:
            self._tail.append(line)
            log.debug("core %r: %s", self._core, line)
            self._on_line(line)
