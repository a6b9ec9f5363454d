"""The requests for conversations (threads), and the access that each of them needs.

In grants, a thread is named `thread:NAME`. Messages are JSON values; an `aios_core.Message`
is stored in the form of its `to_dict`. Removing and replacing messages counts as normal use,
since it keeps a conversation short; only removing a whole thread is marked irreversible for
the access check.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.memory.naming import THREAD, require_count, require_name, require_owner, require_text
from aios_core.memory.records import ThreadEntry
from aios_core.memory.requests import KIND
from aios_core.memory.threads import ACTIVE, STATUSES, Window
from aios_core.messages import Message, require_items
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _ThreadRequest(Request[T]):
    """A request about one thread."""

    right: ClassVar[Right] = Right.READ
    loss: ClassVar[str | None] = None  # why the request cannot be undone
    thread: str
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_name("thread", self.thread)
        require_owner(self.owner)

    def arguments(self) -> Mapping[str, Any]:
        """Return the other arguments of the request, as plain JSON values, for the access check."""
        return {}

    def access(self, identity: str) -> Access:
        """Return the access to the thread that the request needs."""
        resource = Resource(KIND, self.owner or identity, THREAD + self.thread)
        return Access(self.kind, self.right, resource, self.arguments(), self.loss)


@dataclass(frozen=True, slots=True)
class _Messages(_ThreadRequest[tuple[int, ...]]):
    """A request that stores messages. Answered with their numbers."""

    right: ClassVar[Right] = Right.WRITE
    messages: Sequence[Any]
    contents: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_name("thread", self.thread)
        require_owner(self.owner)
        contents = tuple(map(_encoded, require_items("messages", self.messages)))
        object.__setattr__(self, "contents", contents)

    def arguments(self) -> Mapping[str, Any]:
        digests = [hashlib.sha256(content).hexdigest() for content in self.contents]
        return {"sha256": digests}


@dataclass(frozen=True, slots=True)
class ThreadAppend(_Messages):
    """Append messages in one transaction; the thread is created if it does not exist."""

    kind: ClassVar[str] = "memory.thread_append"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class ThreadReplace(_Messages):
    """Replace all messages of a thread, archived ones included."""

    kind: ClassVar[str] = "memory.thread_replace"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING


@dataclass(frozen=True, slots=True)
class _Windowed(_ThreadRequest[tuple[ThreadEntry, ...]]):
    """A request about some messages, chosen by `numbers`, or else by a `window`."""

    numbers: tuple[int, ...] | None = None
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        require_name("thread", self.thread)
        require_owner(self.owner)
        for number in require_items("numbers", self.numbers or ()):
            require_count("numbers", number, at_least=0)
        require_count("skip", self.window.skip, at_least=0)
        require_count("take", self.window.take, at_least=0)
        if self.window.status not in STATUSES:
            raise InvalidRequest(
                f"status: got {shown_repr(self.window.status)}; allowed: {STATUSES}"
            )

    @property
    def chosen(self) -> Window | tuple[int, ...]:
        return self.window if self.numbers is None else tuple(self.numbers)

    def arguments(self) -> Mapping[str, Any]:
        window = self.window
        return {
            "numbers": None if self.numbers is None else list(self.numbers),
            "window": [window.status, window.skip, window.take, window.is_from_end],
        }


@dataclass(frozen=True, slots=True)
class ThreadRead(_Windowed):
    """Read messages, the oldest first; none if there is no such thread."""

    kind: ClassVar[str] = "memory.thread_read"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT


@dataclass(frozen=True, slots=True)
class ThreadRemove(_Windowed):
    """Remove messages. Answered with the removed ones."""

    kind: ClassVar[str] = "memory.thread_remove"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    right: ClassVar[Right] = Right.WRITE


@dataclass(frozen=True, slots=True)
class ThreadArchive(_Windowed):
    """Archive messages. Answered with the archived ones."""

    kind: ClassVar[str] = "memory.thread_archive"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    right: ClassVar[Right] = Right.WRITE


@dataclass(frozen=True, slots=True)
class ThreadCount(_ThreadRequest[int]):
    """Count the messages of a thread that have a status."""

    kind: ClassVar[str] = "memory.thread_count"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    status: str = ACTIVE

    def __post_init__(self) -> None:
        require_name("thread", self.thread)
        require_owner(self.owner)
        if self.status not in STATUSES:
            raise InvalidRequest(f"status: got {shown_repr(self.status)}; allowed: {STATUSES}")


@dataclass(frozen=True, slots=True)
class ThreadClear(_ThreadRequest[None]):
    """Delete a thread with all its messages. Raises `NoSuchObject`."""

    kind: ClassVar[str] = "memory.thread_clear"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    loss: ClassVar[str | None] = "it removes a conversation; memory keeps no older versions"


@dataclass(frozen=True, slots=True)
class ThreadList(Request[tuple[str, ...]]):
    """List the names of the threads that start with `prefix`, sorted."""

    kind: ClassVar[str] = "memory.thread_list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    prefix: str = ""
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)

    def access(self, identity: str) -> Access:
        """Return the access to all of the owner's memory."""
        resource = Resource(KIND, self.owner or identity)
        return Access(self.kind, Right.READ, resource, {"prefix": self.prefix})


def _encoded(message: object) -> bytes:
    value = message.to_dict() if isinstance(message, Message) else message
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        shown = reprlib.repr(message)  # bounds the depth, which `repr` does not
        raise InvalidRequest(f"messages: {shown:.200} is not JSON: {exc}") from exc
