"""A conversation in an agent's memory: `agent.memory.thread("t")`.

Messages are JSON values, and are read as they were appended; an `aios_core.Message` is read as
the mapping that its `to_dict` returns. The errors that every method can raise are listed in
`aios_core.memory.handle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aios_core.errors import InvalidRequest
from aios_core.manager import Port
from aios_core.memory.records import ThreadEntry
from aios_core.memory.thread_requests import (
    ThreadAppend,
    ThreadArchive,
    ThreadClear,
    ThreadCount,
    ThreadRead,
    ThreadRemove,
    ThreadReplace,
)
from aios_core.memory.threads import ACTIVE, Window
from aios_core.untrusted.arguments import reads_arguments, require_integer, require_items


@dataclass(frozen=True, slots=True)
class Thread:
    """One conversation: an ordered log of messages.

    A message has a number that never changes, and a position. Positions count from 0, the oldest
    message, separately for active and archived messages.
    """

    _port: Port
    name: str
    owner: str | None = None

    def append(self, *messages: Any) -> tuple[int, ...]:
        """Append messages in one transaction. Returns their numbers, which never change."""
        return self._port.call(ThreadAppend(self.name, messages, owner=self.owner))

    async def aappend(self, *messages: Any) -> tuple[int, ...]:
        """Append messages in one transaction. Returns their numbers, which never change."""
        return await self._port.acall(ThreadAppend(self.name, messages, owner=self.owner))

    def read(
        self,
        start: int = 0,
        limit: int | None = None,
        *,
        last: int | None = None,
        status: str = ACTIVE,
    ) -> tuple[ThreadEntry, ...]:
        """Read messages, the oldest first. Returns none if there is no such thread.

        Args:
            start: the position of the first message.
            limit: the maximum number of messages; None: to the end.
            last: read this many of the newest messages instead of `start` and `limit`.
            status: "active", "archived" or "all".
        """
        return self._port.call(self._read(start, limit, last, status))

    async def aread(
        self,
        start: int = 0,
        limit: int | None = None,
        *,
        last: int | None = None,
        status: str = ACTIVE,
    ) -> tuple[ThreadEntry, ...]:
        """Read messages, the oldest first (async form of `read`)."""
        return await self._port.acall(self._read(start, limit, last, status))

    def count(self, status: str = ACTIVE) -> int:
        """Return the number of messages with a status: "active", "archived" or "all"."""
        return self._port.call(ThreadCount(self.name, status, owner=self.owner))

    async def acount(self, status: str = ACTIVE) -> int:
        """Return the number of messages with a status: "active", "archived" or "all"."""
        return await self._port.acall(ThreadCount(self.name, status, owner=self.owner))

    def replace(self, messages: Sequence[Any]) -> tuple[int, ...]:
        """Replace all messages, archived ones included. Returns the numbers of the new ones."""
        return self._port.call(ThreadReplace(self.name, messages, owner=self.owner))

    async def areplace(self, messages: Sequence[Any]) -> tuple[int, ...]:
        """Replace all messages, archived ones included. Returns the numbers of the new ones."""
        return await self._port.acall(ThreadReplace(self.name, messages, owner=self.owner))

    def remove(
        self,
        *,
        numbers: Iterable[int] | None = None,
        index: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> tuple[ThreadEntry, ...]:
        """Remove messages. Returns the removed ones.

        Give exactly one of:

        Args:
            numbers: messages by number, archived ones too; unknown numbers are ignored.
            index: the active message at a position; negative positions count from the end.
            first: this many of the oldest active messages.
            last: this many of the newest active messages.
        """
        chosen, window = _choice(numbers, index, first, last)
        return self._port.call(ThreadRemove(self.name, chosen, window, owner=self.owner))

    async def aremove(
        self,
        *,
        numbers: Iterable[int] | None = None,
        index: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> tuple[ThreadEntry, ...]:
        """Remove messages; returns the removed ones (async form of `remove`)."""
        chosen, window = _choice(numbers, index, first, last)
        return await self._port.acall(ThreadRemove(self.name, chosen, window, owner=self.owner))

    def archive(
        self,
        *,
        numbers: Iterable[int] | None = None,
        index: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> tuple[ThreadEntry, ...]:
        """Archive messages, so that `read` omits them by default. Returns the archived ones.

        Give exactly one of `numbers`, `index`, `first` and `last`, as for `remove`.
        """
        chosen, window = _choice(numbers, index, first, last)
        return self._port.call(ThreadArchive(self.name, chosen, window, owner=self.owner))

    async def aarchive(
        self,
        *,
        numbers: Iterable[int] | None = None,
        index: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> tuple[ThreadEntry, ...]:
        """Archive messages; returns the archived ones (async form of `archive`)."""
        chosen, window = _choice(numbers, index, first, last)
        return await self._port.acall(ThreadArchive(self.name, chosen, window, owner=self.owner))

    def clear(self) -> None:
        """Delete the thread with all its messages. Raises `NoSuchObject`."""
        self._port.call(ThreadClear(self.name, owner=self.owner))

    async def aclear(self) -> None:
        """Delete the thread with all its messages. Raises `NoSuchObject`."""
        await self._port.acall(ThreadClear(self.name, owner=self.owner))

    def _read(self, start: int, limit: int | None, last: int | None, status: str) -> ThreadRead:
        if last is not None and (start or limit is not None):
            raise InvalidRequest("last: cannot be combined with start or limit; give one of them")
        window = Window(status, start, limit) if last is None else Window(status, 0, last, True)
        return ThreadRead(self.name, None, window, owner=self.owner)


@reads_arguments
def _choice(
    numbers: Iterable[int] | None, index: int | None, first: int | None, last: int | None
) -> tuple[tuple[int, ...] | None, Window]:
    """Turn the arguments that choose messages into numbers, or else into a window."""
    given = [one for one in (numbers, index, first, last) if one is not None]
    if len(given) != 1:
        allowed = "exactly one of numbers, index, first and last"
        raise InvalidRequest(f"messages: got {len(given)} ways to choose them; allowed: {allowed}")
    if numbers is not None:
        return tuple(require_items("numbers", numbers)), Window()
    require_integer("index", index)
    if index is not None:
        return None, Window(skip=index, take=1) if index >= 0 else Window(ACTIVE, ~index, 1, True)
    return None, Window(take=first) if first is not None else Window(take=last, is_from_end=True)
