"""What the memory manager answers with: plain, frozen data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aios_core.errors import InvalidRequest

Value = str | bytes


@dataclass(frozen=True, slots=True)
class Content:
    """A value as it is kept: bytes, and whether they are a text in UTF-8."""

    data: bytes
    is_text: bool

    @classmethod
    def of(cls, value: object) -> Self:
        """Raises `InvalidRequest` for what is neither text nor bytes."""
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
        """The text or the bytes again."""
        return self.data.decode() if self.is_text else self.data

    def fingerprint(self) -> Mapping[str, Any]:
        """What an approval is bound to."""
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
    num_resident: int  # of the pages
    is_pinned: bool
    labels: frozenset[str]
    updated_at: float
    name_labels: frozenset[str] = frozenset()  # of whoever named it


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a thread or a namespace, and the labels of who gave it."""

    text: str
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class MemoryHit:
    """A passage that a search found. `start` and `stop` count the characters of the block."""

    block: str
    text: str
    start: int
    stop: int
    score: float  # the cosine between it and the query, at most 1


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """How much of its quotas an agent's memory takes, in bytes. None: no limit."""

    used: int
    limit: int | None
    group_used: int
    group_limit: int | None
    resident: int  # held in RAM now
    resident_limit: int


@dataclass(frozen=True, slots=True)
class ThreadEntry:
    """One message of a thread. `number` never changes and is never given again."""

    number: int
    content: Any  # JSON
    at: float  # seconds since 1970
    is_archived: bool
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One entry of a namespace; times in seconds since 1970. `value` is None if not asked for."""

    key: str
    value: Value | None
    created_at: float
    updated_at: float
    expires_at: float | None
    labels: frozenset[str]
    name_labels: frozenset[str] = frozenset()  # of whoever set the key first
