"""The answers of the memory manager: plain, frozen data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aios_core.errors import InvalidRequest

Value = str | bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A value in stored form: bytes, and whether they are text in UTF-8."""

    data: bytes
    is_text: bool

    @classmethod
    def of(cls, value: object) -> Self:
        """Build a content from a text or bytes. Raises `InvalidRequest` for other types."""
        if isinstance(value, str):
            try:
                return cls(value.encode(), True)
            except UnicodeEncodeError as exc:
                raise InvalidRequest(f"value: not valid Unicode: {exc}") from exc
        if isinstance(value, bytes | bytearray | memoryview):
            return cls(bytes(value), False)
        raise InvalidRequest(f"value: got {type(value).__name__}; allowed: a text, or bytes")

    @property
    def value(self) -> Value:
        """The content as the text or bytes that it was built from."""
        return self.data.decode() if self.is_text else self.data

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the hash of the content, to which an approval is bound."""
        digest = hashlib.sha256(self.data).hexdigest()
        return {"sha256": digest, "is_text": self.is_text}


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """A block of memory, without its content.

    `size` is in bytes, `updated_at` in seconds since 1970.
    """

    name: str
    size: int
    is_text: bool
    num_pages: int
    num_resident: int  # pages in RAM
    is_pinned: bool
    labels: frozenset[str]
    updated_at: float
    name_labels: frozenset[str] = frozenset()  # of the agent that chose the name


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a thread or namespace, and the labels of the agent that chose it."""

    text: str
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """A chunk of a block that a search found. `start` and `stop` count the block's characters."""

    block: str
    text: str
    start: int
    stop: int
    score: float  # cosine similarity to the query, at most 1


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """The memory usage and quotas of an agent and its group, in bytes. None: no limit."""

    used: int
    limit: int | None
    group_used: int
    group_limit: int | None
    resident: int  # held in RAM now
    resident_limit: int


@dataclass(frozen=True, slots=True)
class ThreadEntry:
    """One message of a thread. `number` never changes, and is never used again."""

    number: int
    content: Any  # JSON
    at: float  # seconds since 1970
    is_archived: bool
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """An entry of a namespace. Times are in seconds since 1970; `value` is None if not read."""

    key: str
    value: Value | None
    created_at: float
    updated_at: float
    expires_at: float | None
    labels: frozenset[str]
    name_labels: frozenset[str] = frozenset()  # of the agent that set the key first
