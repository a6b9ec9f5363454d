"""Streams of changes below a path, for threads and for event loops.

Nothing is queued in memory: a watcher reads the versions in the database that follow the
last one it received. So a slow watcher costs nothing, and misses only versions that
retention has removed. A new watcher can continue after the last change of an older one
(`after=change.seq`). Every read is a request with an access check of its own: when the grant
is revoked, the stream ends with `AccessDenied`.

A stream ends when it is closed, when its agent exits and when the kernel closes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from aios_core.errors import KernelClosed, SyscallCancelled
from aios_core.manager import Port
from aios_core.storage.records import FileChange
from aios_core.storage.requests import FileChanges, FileWait
from aios_core.untrusted.arguments import require_integer, require_number

_BATCH: Final = 256  # changes that one request reads at most
_STEP_S: Final = 1.0  # of one wait; a closed stream ends after it at the latest


@dataclass(slots=True)
class _Position:
    """The progress of a watcher, which decides its next request. Pure."""

    path: str
    owner: str | None
    after: int | None  # None: from now on
    quiet_s: float  # seconds without a change that end the stream
    waited_s: float = 0.0
    ready: deque[FileChange] = field(default_factory=deque)
    is_closed: bool = False

    @property
    def step_s(self) -> float:
        return max(0.0, min(_STEP_S, self.quiet_s - self.waited_s))

    def wait_request(self) -> FileWait:
        after = -1 if self.after is None else self.after
        return FileWait(self.path, after, owner=self.owner, wait_s=self.step_s)

    def may_have_changed(self, last: int) -> bool:
        """Return whether there may be changes, now that the owner's last one is number `last`."""
        if self.after is None:
            self.after = last
            return False
        if last > self.after:
            return True
        self.waited_s += self.step_s
        if self.waited_s >= self.quiet_s:
            self.is_closed = True
        return False

    def next_request(self) -> FileChanges:
        return FileChanges(self.path, self.after or 0, owner=self.owner, limit=_BATCH)

    def apply(self, changes: tuple[FileChange, ...], last: int) -> None:
        self.ready.extend(changes)
        self.after = changes[-1].seq if len(changes) == _BATCH else max(last, self.after or 0)
        if changes:
            self.waited_s = 0.0
            self.after = max(self.after, changes[-1].seq)


def _position(path: str, owner: str | None, after: int | None, quiet_s: float | None) -> _Position:
    require_integer("after", after)
    require_number("quiet_s", quiet_s, at_least=0.0)
    return _Position(path, owner, after, math.inf if quiet_s is None else quiet_s)


class Watch:
    """A blocking stream of the changes below a path: a context manager and an iterator."""

    def __init__(
        self,
        port: Port,
        path: str,
        *,
        owner: str | None = None,
        after: int | None = None,
        quiet_s: float | None = None,
    ) -> None:
        self._port = port
        self._position = _position(path, owner, after, quiet_s)
        if after is None:
            self._position.may_have_changed(port.call(self._position.wait_request()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FileChange:
        here = self._position
        try:
            while not here.is_closed:
                if here.ready:
                    return here.ready.popleft()
                last = self._port.call(here.wait_request())
                if here.may_have_changed(last):
                    here.apply(self._port.call(here.next_request()), last)
        except (SyscallCancelled, KernelClosed):
            here.is_closed = True
        raise StopIteration

    def close(self) -> None:
        """End the stream. A thread that waits for the next change returns within a second."""
        self._position.is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class AsyncWatch:
    """A stream of the changes below a path for event loops: `async with` and `async for`.

    It starts with `async with`, or else with the first step of the iteration.
    """

    def __init__(
        self,
        port: Port,
        path: str,
        *,
        owner: str | None = None,
        after: int | None = None,
        quiet_s: float | None = None,
    ) -> None:
        self._port = port
        self._position = _position(path, owner, after, quiet_s)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FileChange:
        here = self._position
        try:
            while not here.is_closed:
                if here.ready:
                    return here.ready.popleft()
                last = await self._port.acall(here.wait_request())
                if here.may_have_changed(last):
                    here.apply(await self._port.acall(here.next_request()), last)
        except (SyscallCancelled, KernelClosed):
            here.is_closed = True
        raise StopAsyncIteration

    def close(self) -> None:
        """End the stream."""
        self._position.is_closed = True

    async def __aenter__(self) -> Self:
        if self._position.after is None:
            self._position.may_have_changed(await self._port.acall(self._position.wait_request()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
