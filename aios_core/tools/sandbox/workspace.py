"""The interface to agents' files for confined code; the kernel passes the implementation in."""

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

from aios_core.shielding import finish_shielded

empty_directory = partial(TemporaryDirectory, prefix="aios-sandbox-")


class CheckedOut(Protocol):
    """The files that a check-out put into a directory."""

    @property
    def labels(self) -> frozenset[str]:
        """The labels of all those files; code in the directory can read all of them."""


class Workspace(Protocol):
    """Agents' files, checked out into directories."""

    async def checkout(self, identity: str, directory: Path) -> CheckedOut:
        """Copy an agent's files into an empty directory."""

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> object:
        """Make the files that differ in the directory new versions of the agent's files."""


@dataclass(frozen=True, slots=True)
class LabelingWorkspace:
    """A workspace that labels an agent with the labels of its files before code can read them.

    Before, because even code that fails may pass on all that it could read: in its output, in
    an exception, or in a later cell.
    """

    workspace: Workspace
    mark: Callable[[str, frozenset[str]], object]  # adds labels to the agent of that identity

    async def checkout(self, identity: str, directory: Path) -> CheckedOut:
        """Copy an agent's files into an empty directory, and label the agent."""
        checked_out = await self.workspace.checkout(identity, directory)
        self.mark(identity, checked_out.labels)
        return checked_out

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> object:
        """Make the files that differ in the directory new versions of the agent's files."""
        return await self.workspace.commit(identity, directory, labels)


@asynccontextmanager
async def scratch(threads: Executor | None = None) -> AsyncIterator[Path]:
    """Enter an empty temporary directory.

    Args:
        threads: for the blocking work; None for the default threads of the running loop.
    """
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(threads, empty_directory)
    try:
        place = await finish_shielded(making)
    except asyncio.CancelledError:
        making.result().cleanup()
        raise
    try:
        yield Path(place.name)
    finally:
        await finish_shielded(loop.run_in_executor(threads, place.cleanup))
