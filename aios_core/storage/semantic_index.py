"""The contract between the storage manager and a semantic index over its files.

The index is derived from the files, and follows their changes. Every change has a number,
and the newest state of each file has the number of its last change. An index that stores
how far it got asks `FileFeed.changed(after=...)` and misses no change: neither one written
while it was busy, nor one committed just before a crash.

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
    file: int  # does not change when the file moves
    owner: str  # identity
    path: str | None  # None: purged
    version: int
    size: int  # bytes
    is_live: bool  # False: deleted or purged; the index removes the file
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk of a file that is close to a query in meaning."""

    path: str
    owner: str
    version: int  # of the file, when it was indexed
    score: float  # cosine similarity, at most 1
    excerpt: str  # the text of the chunk
    start: int = 0  # its position in the file's text, in characters
    labels: frozenset[str] = frozenset()


class FileFeed(Protocol):
    """Gives a semantic index the changes and contents of files. Awaited on the kernel's loop."""

    async def changed(self, after: int, limit: int = 256) -> Sequence[FileState]:
        """Return the states of files with a last change above `after`, sorted by change."""

    async def content(self, state: FileState) -> bytes | None:
        """Return the content of a state; None: the file has changed, and a newer state follows."""


class SemanticIndex(Protocol):
    """A semantic index of the contents of files. Used on the kernel's loop; must not block it."""

    async def start(self, feed: FileFeed) -> None:
        """Take the feed of files. Called once, when the manager starts; should open nothing yet."""

    def notify(self, seq: int) -> None:
        """Note that the changes up to this number are committed."""

    async def retrieve(
        self, process: AgentProcess, owner: str, query: str, *, k: int, path: str, seq: int
    ) -> Sequence[Hit]:
        """Return the `k` best hits among the owner's files below `path`, best first.

        The index includes at least the changes up to `seq`, so that an agent finds what it has
        just written. The process pays for embedding the query.
        """

    async def close(self) -> None:
        """Stop indexing and free all resources."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
