"""What an agent may ask of the memory manager, and what each request does to what.

The paper's calls are among them: mem_alloc is `MemoryAlloc`, mem_read `MemoryRead`,
mem_write `MemoryWrite` (and `MemoryAppend`), mem_clear `MemoryClear`. Those about
conversations and key-value namespaces are in `thread_requests` and `kv_requests`.

`owner` names the agent whose memory is meant; None: the caller. A change within what an
agent keeps is what memory is for; what removes a whole block, or writes over one, says that it
cannot be undone. (Whether a block of one's own is written over, the manager finds: `Overwrite`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.memory.names import require_block, require_count, require_owner, require_text
from aios_core.memory.records import BlockInfo, Content, MemoryHit, MemoryUsage, Value
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

T = TypeVar("T")

KIND = "memory"  # of the resources
MAX_HITS = 1_000
MAX_QUERY_CHARS = 10_000
_GONE = "memory keeps no older versions"


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
        """What the request says besides, as plain JSON values."""
        return {}

    def irreversible(self, identity: str) -> str | None:  # noqa: ARG002 - some look at it
        """Why it cannot be undone; None: it can be, or nothing is lost."""
        return None

    def access(self, identity: str) -> Access:
        """The access to the block."""
        return Access(
            self.kind,
            self.right,
            Resource(KIND, self.owner or identity, self.block),
            self.arguments(),
            self.irreversible(identity),
        )


@dataclass(frozen=True, slots=True)
class MemoryAlloc(_BlockRequest[None]):
    """Make an empty block. Raises `Conflict` if there is one of that name."""

    kind: ClassVar[str] = "memory.alloc"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    is_text: bool = True
    is_pinned: bool = False

    def arguments(self) -> Mapping[str, Any]:
        return {"is_text": self.is_text, "is_pinned": self.is_pinned}


@dataclass(frozen=True, slots=True)
class MemoryRead(_BlockRequest[Value]):
    """A block, or the part from `start` to before `stop`: characters of a text, else bytes."""

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
    """A request that brings a value; answered with the size of the block after it, in bytes."""

    right: ClassVar[Right] = Right.WRITE
    value: Value
    content: Content = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_block(self.block)
        require_owner(self.owner)
        object.__setattr__(self, "content", Content.of(self.value))
        object.__setattr__(self, "value", self.content.value)  # a buffer may change later

    def arguments(self) -> Mapping[str, Any]:
        return self.content.fingerprint()


@dataclass(frozen=True, slots=True)
class MemoryWrite(_Change):
    """Make a block of this value; or write over a part of one that holds bytes."""

    kind: ClassVar[str] = "memory.write"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    at: int | None = None  # the byte to begin with, at most its size; None: the whole block

    def __post_init__(self) -> None:
        _Change.__post_init__(self)
        require_count("at", self.at, at_least=0)

    def arguments(self) -> Mapping[str, Any]:
        return {**self.content.fingerprint(), "at": self.at}

    def irreversible(self, identity: str) -> str | None:
        is_anothers = self.owner not in (None, identity)
        return f"it writes over another agent's memory; {_GONE}" if is_anothers else None


@dataclass(frozen=True, slots=True)
class Overwrite(Request[int]):
    """A `MemoryWrite` over something of the caller's own; the access check sees this."""

    kind: ClassVar[str] = MemoryWrite.kind
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    write: MemoryWrite

    def access(self, identity: str) -> Access:
        """The access to the block."""
        return replace(self.write.access(identity), irreversible=f"it writes over a block; {_GONE}")


@dataclass(frozen=True, slots=True)
class MemoryAppend(_Change):
    """Put a value at the end of a block, made if it is not there."""

    kind: ClassVar[str] = "memory.append"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class MemoryPin(_BlockRequest[None]):
    """Keep a block's pages in RAM, or no longer."""

    kind: ClassVar[str] = "memory.pin"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    is_pinned: bool = True

    def arguments(self) -> Mapping[str, Any]:
        return {"is_pinned": self.is_pinned}


@dataclass(frozen=True, slots=True)
class MemoryClear(_BlockRequest[None]):
    """Remove a block. Raises `NoSuchObject`."""

    kind: ClassVar[str] = "memory.clear"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE

    def irreversible(self, identity: str) -> str | None:  # noqa: ARG002 - whose it is, is the same
        return f"it removes a block; {_GONE}"


@dataclass(frozen=True, slots=True)
class _PrefixRequest(Request[T]):
    """A request about the blocks whose names begin in the same way."""

    right: ClassVar[Right] = Right.READ
    prefix: str = ""
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)

    def access(self, identity: str) -> Access:
        """The access to all blocks: which ones begin so is not known before."""
        resource = Resource(KIND, self.owner or identity)
        return Access(self.kind, self.right, resource, {"prefix": self.prefix})


@dataclass(frozen=True, slots=True)
class MemoryList(_PrefixRequest[tuple[BlockInfo, ...]]):
    """The blocks, in the order of their names."""

    kind: ClassVar[str] = "memory.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT


@dataclass(frozen=True, slots=True)
class MemoryClearAll(_PrefixRequest[int]):
    """Remove blocks; how many there were."""

    kind: ClassVar[str] = "memory.clear_all"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE

    def access(self, identity: str) -> Access:
        """The access to all blocks."""
        return Access(
            self.kind,
            self.right,
            Resource(KIND, self.owner or identity),
            {"prefix": self.prefix},
            f"it removes blocks; {_GONE}",
        )


@dataclass(frozen=True, slots=True)
class MemorySearch(_PrefixRequest[tuple[MemoryHit, ...]]):
    """The passages of texts that are nearest in meaning, the nearest first."""

    kind: ClassVar[str] = "memory.search"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    query: str = ""
    limit: int = 5

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)
        if not isinstance(self.query, str) or not 0 < len(self.query) <= MAX_QUERY_CHARS:
            allowed = f"a text of 1 to {MAX_QUERY_CHARS} characters"
            raise InvalidRequest(f"query: got {shown_repr(self.query)}; allowed: {allowed}")
        Content.of(self.query)
        require_count("limit", self.limit, at_least=1)
        if self.limit > MAX_HITS:
            raise InvalidRequest(f"limit: got {self.limit}; allowed: at most {MAX_HITS}")

    def access(self, identity: str) -> Access:
        """The access to all blocks."""
        arguments = {"prefix": self.prefix, "query": self.query, "limit": self.limit}
        return Access(self.kind, self.right, Resource(KIND, self.owner or identity), arguments)


@dataclass(frozen=True, slots=True)
class MemoryMeasure(Request[MemoryUsage]):
    """How much of its quotas the caller's memory takes."""

    kind: ClassVar[str] = "memory.measure"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """The access to all of its own."""
        return Access(self.kind, Right.READ, Resource(KIND, identity))
