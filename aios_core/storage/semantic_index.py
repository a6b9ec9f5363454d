"""The contract between the storage manager and a semantic index over its files.

The files are the truth; an index follows them. Every change has a number, and the
newest state of each file carries the number of its last change, so an index that
remembers how far it got asks `FileFeed.changed(after=...)` and misses nothing: not
what was written while it was busy, nor what was committed just before a crash.

    notify(seq) ──> feed.changed(after) ──> feed.content(state) ──> vectors, then its own cursor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aios_core.process import AgentProcess


@dataclass(frozen=True, slots=True)
class FileState:
    """The newest state of one file."""

    seq: int  # of its last change; grows with every change to any file
    file: int  # stays the same when the file moves
    owner: str  # identity
    path: str | None  # None: purged
    version: int
    size: int  # bytes
    is_live: bool  # False: deleted or purged; an index forgets the file
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hit:
    """A file, or a part of one, that is close to a query."""

    path: str
    owner: str
    version: int  # that was indexed
    score: float  # cosine similarity, at most 1
    excerpt: str  # the part that is close
    start: int = 0  # where in the text, in characters
    labels: frozenset[str] = frozenset()


class FileFeed(Protocol):
    """What storage offers to an index. Awaited on the kernel's loop."""

    async def changed(self, after: int, limit: int = 256) -> Sequence[FileState]:
        """The files whose last change has a number above `after`, in the order of those."""

    async def content(self, state: FileState) -> bytes | None:
        """The content; None: the file has changed since, and a newer state follows."""


class SemanticIndex(Protocol):
    """An index of the files' contents. Its methods run on the kernel's loop and never block it."""

    async def start(self, feed: FileFeed) -> None:
        """Called once, with the manager's start. Opens nothing that nobody asked for."""

    def notify(self, seq: int) -> None:
        """Changes up to this number are committed."""

    async def retrieve(
        self, process: AgentProcess, owner: str, query: str, *, k: int, path: str, seq: int
    ) -> Sequence[Hit]:
        """The `k` best hits below `path` among the owner's files, the best first.

        Knows at least the changes up to `seq`: an agent finds what it has written. What the
        question costs is the process's to pay.
        """

    async def close(self) -> None:
        """Stop and free everything."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
