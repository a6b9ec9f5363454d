"""Whose files confined code works on; the kernel passes the implementation in."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Workspace(Protocol):
    """An agent's files, as a directory for a while."""

    async def checkout(self, identity: str, directory: Path) -> None:
        """Put the agent's files into an empty directory."""

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> None:
        """Make what differs there the newest versions of the agent's files."""
