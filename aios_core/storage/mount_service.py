"""Serve the requests for paths below /mnt: each is one call of `Mounts`, on a storage thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aios_core.errors import AccessDenied, InvalidRequest
from aios_core.labels import with_all_labels, with_labels
from aios_core.process import AgentProcess
from aios_core.state import Database
from aios_core.storage.background import BackgroundTasks
from aios_core.storage.mounts import Mounts
from aios_core.storage.records import ChangeKind, FileContent, FileVersion, StoredFile
from aios_core.storage.requests import (
    FileAppend,
    FileCreate,
    FileDelete,
    FileList,
    FileMove,
    FileRead,
    FileStat,
    FileWrite,
)

_CHANGES: Final = {
    FileCreate: ChangeKind.CREATE,
    FileWrite: ChangeKind.WRITE,
    FileAppend: ChangeKind.APPEND,
    FileDelete: ChangeKind.DELETE,
    FileMove: ChangeKind.MOVE,
}


class MountService:
    """Serves the requests for files in mounts. A change that has started is not cancelled."""

    def __init__(
        self, mounts: Mounts, background: BackgroundTasks, now: Callable[[], float]
    ) -> None:
        self._mounts = mounts
        self._background = background
        self._now = now

    async def classify_write(self, request: FileWrite) -> FileWrite | FileCreate:
        """Turn a write to a new path into a `FileCreate`, which needs no approval.

        If another program creates the file before the write, that fails with `Conflict`.
        """
        exists = await self._background.run_on_thread(partial(self._mounts.exists, request.path))
        return request if exists else FileCreate(request.path, request.data)

    async def perform(self, process: AgentProcess, request: Any, database: Database) -> Any:
        """Serve one request. Raises `AccessDenied` for a change in a read-only mount."""
        if type(request) in _CHANGES:
            return await self._change(process, request, database)
        return await self._look(request, database)

    async def _look(self, request: FileList | FileRead | FileStat, database: Database) -> Any:
        mounts, path = self._mounts, request.path
        if isinstance(request, FileList):
            listing = partial(mounts.listing, database, path, request.after, request.limit)
            return with_all_labels(await self._background.run_on_thread(listing))
        if isinstance(request, FileRead) and request.version is not None:
            raise InvalidRequest(f"version: {path} is in a mount, which has no versions")
        look = mounts.read if isinstance(request, FileRead) else mounts.stat
        found: FileContent | StoredFile = await self._background.run_on_thread(
            partial(look, database, path)
        )
        return with_labels(found, found.labels)

    async def _change(self, process: AgentProcess, request: Any, database: Database) -> FileVersion:
        mounts, path = self._mounts, request.path
        if not mounts.is_writable(path):
            raise AccessDenied(
                process.pid, request.kind, path, "the mount is read-only", agent=process.identity
            )
        labels = frozenset(process.labels)
        work: Callable[[], StoredFile | None]
        if isinstance(request, FileAppend):
            work = partial(mounts.append, database, path, request.data, labels)
        elif isinstance(request, FileDelete):
            work = partial(mounts.delete, path)
        elif isinstance(request, FileMove):
            work = partial(mounts.move, database, path, request.to, labels)
        else:
            is_new = isinstance(request, FileCreate)
            work = partial(mounts.write, database, path, request.data, labels, is_new=is_new)
        file = await self._background.run_shielded(self._background.run_on_thread(work))
        where, size = (file.path, file.size) if file is not None else (path, 0)
        change = _CHANGES[type(request)]
        return FileVersion(where, 0, change, size, self._now(), process.identity, labels, 0)
