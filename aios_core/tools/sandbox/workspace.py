"""Whose files confined code works on; the kernel passes the implementation in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


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
