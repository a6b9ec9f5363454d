"""Whose files confined code works on; the kernel passes the implementation in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from aios_core.tools.sandbox.shielding import to_the_end

empty_directory = partial(TemporaryDirectory, prefix="aios-sandbox-")


class CheckedOut(Protocol):
    """What was put into a directory."""

    @property
    def labels(self) -> frozenset[str]:
        """Where those files come from: whoever reads the directory has read all of that."""


class Workspace(Protocol):
    """An agent's files, as a directory for a while."""

    async def checkout(self, identity: str, directory: Path) -> CheckedOut:
        """Put the agent's files into an empty directory."""

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> object:
        """Make what differs there the newest versions of the agent's files."""


@dataclass(frozen=True, slots=True)
class MarkingWorkspace:
    """A workspace whose agents carry the labels of their files before code can read these.

    Whatever becomes of the code, its caller may have heard of all that it could read: from
    its output as it comes, from what it raises, or from what a later cell says.
    """

    workspace: Workspace
    mark: Callable[[str, frozenset[str]], object]  # adds labels to the agent of that identity

    async def checkout(self, identity: str, directory: Path) -> CheckedOut:
        """See `Workspace`."""
        checked_out = await self.workspace.checkout(identity, directory)
        self.mark(identity, checked_out.labels)
        return checked_out

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> object:
        """See `Workspace`."""
        return await self.workspace.commit(identity, directory, labels)


@asynccontextmanager
async def scratch(threads: Executor | None = None) -> AsyncIterator[Path]:
    """An empty directory for a while. `threads`: for what blocks; None: the running loop's."""
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(threads, empty_directory)
    try:
        place = await to_the_end(making)
    except asyncio.CancelledError:
        making.result().cleanup()
        raise
    try:
        yield Path(place.name)
    finally:
        await to_the_end(loop.run_in_executor(threads, place.cleanup))
