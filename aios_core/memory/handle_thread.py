"""One conversation, in the hands of its developer: `agent.memory.thread("t")`.

Messages are JSON values, read back as they were given; an `aios_core.Message` comes back as
the mapping of its `to_dict`. Errors are those of `aios_core.memory.handle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aios_core.checking import reads_arguments, require_integer, require_items
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


@dataclass(frozen=True, slots=True)
class Thread:
    """See the module. Positions count from 0, the oldest message; archived ones are apart."""

    _port: Port
    name: str
    owner: str | None = None

    def append(self, *messages: Any) -> tuple[int, ...]:
        """Add messages at the end, all or none; their numbers, which never change."""
        return self._port.call(ThreadAppend(self.name, messages, owner=self.owner))

    async def aappend(self, *messages: Any) -> tuple[int, ...]:
        """Add messages at the end, all or none; their numbers, which never change."""
        return await self._port.acall(ThreadAppend(self.name, messages, owner=self.owner))

    def read(
        self,
        start: int = 0,
        limit: int | None = None,
        *,
        last: int | None = None,
        status: str = ACTIVE,
    ) -> tuple[ThreadEntry, ...]:
        """Messages, the oldest first: `limit` of them from a position on, or the `last` ones.

        `status` is "active", "archived" or "all". None if there is no such thread.
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
        """Messages, the oldest first; see `read`."""
        return await self._port.acall(self._read(start, limit, last, status))

    def count(self, status: str = ACTIVE) -> int:
        """How many messages of that status there are."""
        return self._port.call(ThreadCount(self.name, status, owner=self.owner))

    async def acount(self, status: str = ACTIVE) -> int:
        """How many messages of that status there are."""
        return await self._port.acall(ThreadCount(self.name, status, owner=self.owner))

    def replace(self, messages: Sequence[Any]) -> tuple[int, ...]:
        """Put messages in place of all there are, archived ones included; their numbers."""
        return self._port.call(ThreadReplace(self.name, messages, owner=self.owner))

    async def areplace(self, messages: Sequence[Any]) -> tuple[int, ...]:
        """Put messages in place of all there are, archived ones included; their numbers."""
        return await self._port.acall(ThreadReplace(self.name, messages, owner=self.owner))

    def remove(
        self,
        *,
        numbers: Iterable[int] | None = None,
        index: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> tuple[ThreadEntry, ...]:
        """Take messages out, chosen in one of four ways; those that were there.

        Args:
            numbers: by number, archived ones too.
            index: the one at a position; a negative one counts from the end.
            first: that many of the oldest.
            last: that many of the newest.
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
        """Take messages out; see `remove`."""
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
        """Put messages aside, chosen as in `remove`; those that were there."""
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
        """Put messages aside; see `archive`."""
        chosen, window = _choice(numbers, index, first, last)
        return await self._port.acall(ThreadArchive(self.name, chosen, window, owner=self.owner))

    def clear(self) -> None:
        """Remove the thread and its name. Raises `NoSuchObject`."""
        self._port.call(ThreadClear(self.name, owner=self.owner))

    async def aclear(self) -> None:
        """Remove the thread and its name. Raises `NoSuchObject`."""
        await self._port.acall(ThreadClear(self.name, owner=self.owner))

    def _read(self, start: int, limit: int | None, last: int | None, status: str) -> ThreadRead:
        if last is not None and (start or limit is not None):
            raise InvalidRequest("last: not together with start or limit")
        window = Window(status, start, limit) if last is None else Window(status, 0, last, True)
        return ThreadRead(self.name, None, window, owner=self.owner)


@reads_arguments
def _choice(
    numbers: Iterable[int] | None, index: int | None, first: int | None, last: int | None
) -> tuple[tuple[int, ...] | None, Window]:
    """Which messages are meant: by number, or else by a window."""
    given = [one for one in (numbers, index, first, last) if one is not None]
    if len(given) != 1:
        raise InvalidRequest("say which messages: exactly one of numbers, index, first and last")
    if numbers is not None:
        return tuple(require_items("numbers", numbers)), Window()
    require_integer("index", index)
    if index is not None:
        return None, Window(skip=index, take=1) if index >= 0 else Window(ACTIVE, ~index, 1, True)
    return None, Window(take=first) if first is not None else Window(take=last, is_from_end=True)
