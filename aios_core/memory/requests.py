"""The requests for blocks of memory, and the access that each of them needs.

They include the calls of the AIOS paper: mem_alloc is `MemoryAlloc`, mem_read `MemoryRead`,
mem_write `MemoryWrite` (and `MemoryAppend`), mem_clear `MemoryClear`. Requests for
conversations and key-value namespaces are in `thread_requests` and `kv_requests`.

`owner` is the agent that owns the memory; None: the caller. Changing part of a block counts
as normal use; removing or overwriting a whole block is marked irreversible for the access
check. Only the manager knows whether a write overwrites the caller's own block; it then
replaces the request by a `MemoryOverwrite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.memory.naming import require_block, require_count, require_owner, require_text
from aios_core.memory.records import BlockInfo, Content, MemoryHit, MemoryUsage, Value
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

T = TypeVar("T")

KIND = "memory"  # of the resources
MAX_HITS = 1_000
MAX_QUERY_CHARS = 10_000
_NO_VERSIONS = "memory keeps no older versions"


@dataclass(frozen=True, slots=True)
class _BlockRequest(Request[T]):
    """A request about one block."""

    right: ClassVar[Right] = Right.READ
    block: str
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_block(self.block)
        require_owner(self.owner)

    def arguments(self) -> Mapping[str, Any]:
        """Return the other arguments of the request, as plain JSON values, for the access check."""
        return {}

    def irreversible(self, identity: str) -> str | None:  # noqa: ARG002 - used by subclasses
        """Return why the request cannot be undone; None: it can, or nothing is lost."""
        return None

    def access(self, identity: str) -> Access:
        """Return the access to the block that the request needs."""
        return Access(
            self.kind,
            self.right,
            Resource(KIND, self.owner or identity, self.block),
            self.arguments(),
            self.irreversible(identity),
        )


@dataclass(frozen=True, slots=True)
class MemoryAlloc(_BlockRequest[None]):
    """Create an empty block. Raises `Conflict` if there is one of that name."""

    kind: ClassVar[str] = "memory.alloc"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    is_text: bool = True
    is_pinned: bool = False

    def arguments(self) -> Mapping[str, Any]:
        return {"is_text": self.is_text, "is_pinned": self.is_pinned}


@dataclass(frozen=True, slots=True)
class MemoryRead(_BlockRequest[Value]):
    """Read a block, or the part from `start` to before `stop`. Raises `NoSuchObject`.

    Positions count characters in a text block, and bytes in a binary one.
    """

    kind: ClassVar[str] = "memory.read"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    start: int = 0
    stop: int | None = None  # None: to the end

    def __post_init__(self) -> None:
        require_block(self.block)
        require_owner(self.owner)
        require_count("start", self.start, at_least=0)
        require_count("stop", self.stop, at_least=0)

    def arguments(self) -> Mapping[str, Any]:
        return {"start": self.start, "stop": self.stop} if self.start or self.stop else {}


@dataclass(frozen=True, slots=True)
class _Change(_BlockRequest[int]):
    """A request that stores a value. Answered with the new size of the block, in bytes."""

    right: ClassVar[Right] = Right.WRITE
    value: Value
    content: Content = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_block(self.block)
        require_owner(self.owner)
        object.__setattr__(self, "content", Content.of(self.value))
        object.__setattr__(self, "value", self.content.value)  # the caller may reuse its buffer

    def arguments(self) -> Mapping[str, Any]:
        return self.content.fingerprint()


@dataclass(frozen=True, slots=True)
class MemoryWrite(_Change):
    """Write a whole block, or overwrite part of a binary one. Returns the size of the block."""

    kind: ClassVar[str] = "memory.write"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    at: int | None = None  # the first byte to overwrite, at most the size; None: the whole block

    def __post_init__(self) -> None:
        _Change.__post_init__(self)
        require_count("at", self.at, at_least=0)

    def arguments(self) -> Mapping[str, Any]:
        return {**self.content.fingerprint(), "at": self.at}

    def irreversible(self, identity: str) -> str | None:
        if self.owner in (None, identity):
            return None
        return f"it overwrites another agent's memory; {_NO_VERSIONS}"


@dataclass(frozen=True, slots=True)
class MemoryOverwrite(Request[int]):
    """A `MemoryWrite` that replaces the caller's own content, as the access check sees it."""

    kind: ClassVar[str] = MemoryWrite.kind
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    write: MemoryWrite

    def access(self, identity: str) -> Access:
        """Return the access to the block that the request needs."""
        reason = f"it overwrites a block; {_NO_VERSIONS}"
        return replace(self.write.access(identity), irreversible=reason)


@dataclass(frozen=True, slots=True)
class MemoryAppend(_Change):
    """Append to a block; it is created if it does not exist. Returns the size of the block."""

    kind: ClassVar[str] = "memory.append"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class MemoryPin(_BlockRequest[None]):
    """Pin the pages of a block in RAM, or unpin them."""

    kind: ClassVar[str] = "memory.pin"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    is_pinned: bool = True

    def arguments(self) -> Mapping[str, Any]:
        return {"is_pinned": self.is_pinned}


@dataclass(frozen=True, slots=True)
class MemoryClear(_BlockRequest[None]):
    """Delete a block. Raises `NoSuchObject`."""

    kind: ClassVar[str] = "memory.clear"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE

    def irreversible(self, identity: str) -> str | None:  # noqa: ARG002 - true of any owner
        return f"it removes a block; {_NO_VERSIONS}"


@dataclass(frozen=True, slots=True)
class _PrefixRequest(Request[T]):
    """A request about the blocks with names that start with `prefix`."""

    right: ClassVar[Right] = Right.READ
    prefix: str = ""
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)

    def access(self, identity: str) -> Access:
        """Return the access to all of the owner's memory: the matching blocks are unknown yet."""
        resource = Resource(KIND, self.owner or identity)
        return Access(self.kind, self.right, resource, {"prefix": self.prefix})


@dataclass(frozen=True, slots=True)
class MemoryList(_PrefixRequest[tuple[BlockInfo, ...]]):
    """List blocks, sorted by name."""

    kind: ClassVar[str] = "memory.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT


@dataclass(frozen=True, slots=True)
class MemoryClearAll(_PrefixRequest[int]):
    """Delete the blocks with names that start with `prefix`. Returns how many."""

    kind: ClassVar[str] = "memory.clear_all"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE

    def access(self, identity: str) -> Access:
        """Return the access to all of the owner's memory."""
        return Access(
            self.kind,
            self.right,
            Resource(KIND, self.owner or identity),
            {"prefix": self.prefix},
            f"it removes blocks; {_NO_VERSIONS}",
        )


@dataclass(frozen=True, slots=True)
class MemorySearch(_PrefixRequest[tuple[MemoryHit, ...]]):
    """Find the chunks of text blocks that are nearest in meaning to a query, best first."""

    kind: ClassVar[str] = "memory.search"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    query: str = ""
    limit: int = 5

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)
        if not isinstance(self.query, str) or not 0 < len(self.query) <= MAX_QUERY_CHARS:
            allowed = f"a text of 1 to {MAX_QUERY_CHARS:,} characters"
            raise InvalidRequest(f"query: got {shown_repr(self.query)}; allowed: {allowed}")
        Content.of(self.query)
        require_count("limit", self.limit, at_least=1)
        if self.limit > MAX_HITS:
            raise InvalidRequest(f"limit: got {self.limit:,}; allowed: at most {MAX_HITS:,}")

    def access(self, identity: str) -> Access:
        """Return the access to all of the owner's memory."""
        arguments = {"prefix": self.prefix, "query": self.query, "limit": self.limit}
        return Access(self.kind, self.right, Resource(KIND, self.owner or identity), arguments)


@dataclass(frozen=True, slots=True)
class MemoryMeasure(Request[MemoryUsage]):
    """Return how much of its quotas the caller's memory uses."""

    kind: ClassVar[str] = "memory.measure"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """Return the access to all of the caller's memory."""
        return Access(self.kind, Right.READ, Resource(KIND, identity))
