"""Serve the storage requests on the kernel's loop, with all work on other threads.

    request ──> database threads (rows) ──> storage threads (large contents, mounts) ──> answer
                                   └──> watchers and the semantic index, once it is durable

A change that has started is finished and published even if its caller is cancelled. The
access check has already passed. Writes take labels from the process, and reads return them
with the content.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from aios_core.config import StorageConfig
from aios_core.errors import (
    Conflict,
    InvalidRequest,
    NoSuchObject,
    StateError,
)
from aios_core.labels import with_all_labels, with_labels
from aios_core.permissions import Resource
from aios_core.process import AgentProcess
from aios_core.shielding import finish_shielded
from aios_core.state import StateOpener
from aios_core.storage.background import BackgroundTasks
from aios_core.storage.blob_collector import BlobCollector
from aios_core.storage.change_notifier import ChangeNotifier
from aios_core.storage.content_store import INLINE_BYTES, Content
from aios_core.storage.diff import unified
from aios_core.storage.mount_service import MountService
from aios_core.storage.mounts import Mounts, too_large
from aios_core.storage.paths import ROOT
from aios_core.storage.records import ChangeKind, FileContent, FileVersion, Stamp
from aios_core.storage.requests import (
    FileAppend,
    FileChanges,
    FileCreate,
    FileDelete,
    FileDiff,
    FileHistory,
    FileList,
    FileMove,
    FilePurge,
    FileRead,
    FileRetrieve,
    FileRollback,
    FileStat,
    FileWait,
    FileWrite,
    StorageMeasure,
)
from aios_core.storage.semantic_index import FileState, SemanticIndex
from aios_core.storage.tables import Handler, StorageTables, owner_of
from aios_core.storage.tree_service import TreeService
from aios_core.storage.workspace import (
    Checkout,
    Checkouts,
    CommitResult,
    check_out,
    commit_checkout,
)
from aios_core.syscalls import Request


class StorageManager:
    """Serves the storage requests of all agents (a `Manager`).

    Also a `FileFeed` for its semantic index, and `Workspaces` for running code over files.

    Args:
        state: opens the state directory at the first request.
        config: limits, quotas, mounts.
        index: the semantic index of files; None: `FileRetrieve` is refused.
        now: returns seconds since 1970.
    """

    name = "storage"

    def __init__(
        self,
        state: StateOpener,
        config: StorageConfig | None = None,
        *,
        index: SemanticIndex | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config or StorageConfig()
        self._index = index
        self._now = now
        self._mounts = Mounts(self._config.mounts, self._config.max_file_bytes)
        self._background = BackgroundTasks()
        self._mounted = MountService(self._mounts, self._background, now)
        self._collector = BlobCollector(state, self._background)
        self._notifier = ChangeNotifier()
        self._checkouts = Checkouts()
        self._tables = StorageTables(
            state, self._config, self._background, self._notifier, index=index, now=now
        )
        self._appending: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._handlers: dict[type[Request[Any]], Handler] = {
            FileAppend: self._append,
            FileChanges: self._changes,
            FileCreate: self._write,
            FileDelete: self._delete,
            FileDiff: self._diff,
            FileHistory: self._history,
            FileList: self._list,
            FileMove: self._move,
            FilePurge: self._purge,
            FileRead: self._read,
            FileRetrieve: self._retrieve,
            FileRollback: self._rollback,
            FileStat: self._stat,
            FileWait: self._wait,
            FileWrite: self._write,
            StorageMeasure: self._usage,
            **TreeService(self._tables).handlers(),
        }

    def __repr__(self) -> str:
        return f"<StorageManager: {len(self._background)} changes in flight>"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return tuple(self._handlers)

    async def start(self) -> None:
        """Check the mounts and start the index. Raises `ConfigError` for an invalid mount."""
        if self._config.mounts:
            await asyncio.to_thread(self._mounts.require)
        if self._index is not None:
            await self._index.start(self)

    async def prepare(self, process: AgentProcess, request: Any) -> Any:  # noqa: ARG002 - `Preparing`
        """Turn a write to a new path in a mount into a `FileCreate`."""
        if isinstance(request, FileWrite) and request.is_shared:
            return await self._mounted.classify_write(request)
        return request

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        if request.is_shared:
            state, _, _ = await self._tables.open()
            return await self._mounted.perform(process, request, state.database)
        try:
            return await self._handlers[type(request)](process, request)
        except NoSuchObject as exc:
            if request.owner in (None, process.identity):
                raise
            # Another agent must not learn the names of the owner's other files.
            raise NoSuchObject(exc.kind, exc.name, of=exc.of) from None

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether an owner has a file at a path or below it; None: not a file."""
        if resource.kind != "file" or resource.owner is None:
            return None
        owner, path = resource.owner, resource.name or ROOT
        if path == ROOT:
            return True
        _, table, _ = await self._tables.open()
        find = partial(
            table.listing, owner=owner, root=path.rstrip("/"), deleted=False, after=None, limit=1
        )
        return bool(await self._tables.read(find))

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity ever kept a file."""
        query = "SELECT 1 FROM file_usage WHERE owner = ?"
        return bool(await self._tables.read(lambda c: c.execute(query, (identity,)).fetchall()))

    def forget(self, process: AgentProcess) -> None:
        """Do nothing: nothing is cached for a process."""

    async def close(self) -> None:
        """Finish the changes in flight, then close the index, the threads and the mounts."""
        await self._background.drain()
        if self._index is not None:
            await self._index.close()
        await self._background.close()
        self._mounts.close()

    def check(self) -> None:
        if self._index is not None:
            self._index.check()

    # --- files -------------------------------------------------------------------------------

    async def _read(self, process: AgentProcess, request: FileRead) -> Any:
        content = await self._content(owner_of(process, request), request)
        return with_labels(content, content.labels)

    async def _content(self, owner: str, request: FileRead) -> FileContent:
        state, table, _ = await self._tables.open()

        async def read() -> FileContent:
            version, content = await state.database.aread(
                lambda c: table.read(c, owner, request.path, request.version)
            )
            data = content.data
            if data is None:
                data = await self._background.run_on_thread(partial(table.contents.data, content))
            return FileContent(data, version.version, version.labels)

        try:
            return await read()
        except StateError:  # the version may have been removed meanwhile
            return await read()

    async def _stat(self, process: AgentProcess, request: FileStat) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        file = await self._tables.read(lambda c: table.stat(c, owner, request.path))
        return with_labels(file, file.labels)

    async def _list(self, process: AgentProcess, request: FileList) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        return with_all_labels(
            await self._tables.read(
                lambda c: table.listing(
                    c,
                    owner,
                    request.path,
                    deleted=request.deleted,
                    after=request.after,
                    limit=request.limit,
                )
            )
        )

    async def _history(self, process: AgentProcess, request: FileHistory) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        return with_all_labels(
            await self._tables.read(lambda c: table.history(c, owner, request.path))
        )

    async def _diff(self, process: AgentProcess, request: FileDiff) -> Any:
        owner, path = owner_of(process, request), request.path
        _, table, _ = await self._tables.open()
        history = await self._tables.read(lambda c: table.history(c, owner, path))
        new = request.new or history[0].version
        old = request.old
        if old is None:
            older = (v.version for v in history if v.version < new and v.change != "delete")
            old = next(older, 0)
        texts = [
            await self._content(owner, FileRead(path, version=version))
            if version
            else FileContent(b"", 0)
            for version in (old, new)
        ]
        text = await self._background.run_on_thread(partial(unified, path, *texts))
        return with_labels(text, texts[0].labels | texts[1].labels)

    async def _write(self, process: AgentProcess, request: FileWrite | FileCreate) -> FileVersion:
        owner = owner_of(process, request)
        if_version = request.if_version
        if isinstance(request, FileCreate):
            if if_version:
                raise InvalidRequest("if_version: a new file has no version; allowed: 0 or None")
            if_version = 0
        stamp = self._tables.stamp(process)
        return await self._background.run_shielded(
            self._store(
                owner,
                request.path,
                request.data,
                stamp,
                change=ChangeKind.WRITE,
                if_version=if_version,
            )
        )

    async def _append(self, process: AgentProcess, request: FileAppend) -> FileVersion:
        return await self._background.run_shielded(
            self._add(process, request, self._tables.stamp(process))
        )

    async def _add(self, process: AgentProcess, request: FileAppend, stamp: Stamp) -> FileVersion:
        """Read, append and write; start over if another writer was faster."""
        owner, path = owner_of(process, request), request.path
        lock = self._appending.setdefault((owner, path), asyncio.Lock())
        async with lock:
            while True:
                try:
                    old = await self._content(owner, FileRead(path))
                except NoSuchObject:
                    old = FileContent(b"", 0)
                if request.if_version not in (None, old.version):
                    raise Conflict(
                        f"{path} is at version {old.version}, but if_version is "
                        f"{request.if_version}; read it again"
                    )
                labels = stamp.labels | old.labels
                try:
                    return await self._store(
                        owner,
                        path,
                        old.data + request.data,
                        Stamp(stamp.author, stamp.at, labels),
                        change=ChangeKind.APPEND,
                        if_version=old.version,
                    )
                except Conflict:
                    if await self._version(owner, path) == old.version:
                        raise  # not a race: the path itself conflicts

    async def _version(self, owner: str, path: str) -> int:
        _, table, _ = await self._tables.open()
        row = await self._tables.read(lambda c: table.find(c, owner, path))
        return row.live_version if row else 0

    async def _store(
        self,
        owner: str,
        path: str,
        data: bytes,
        stamp: Stamp,
        *,
        change: ChangeKind,
        if_version: int | None,
    ) -> FileVersion:
        if len(data) > self._config.max_file_bytes:
            raise too_large(path, len(data), self._config.max_file_bytes)
        _, table, _ = await self._tables.open()
        if len(data) <= INLINE_BYTES:
            content = Content(len(data), data)
        else:
            content = await self._background.run_on_thread(partial(table.contents.store, data))
        try:
            return await self._tables.commit(
                owner,
                lambda c: table.write(
                    c, owner, path, content, stamp, change=change, if_version=if_version
                ),
            )
        except BaseException:
            if content.blob is not None:
                table.contents.discard(content)
                self._collector.schedule()
            raise
        finally:
            if content.blob is not None:
                self._collector.on_blob_stored()

    async def _delete(self, process: AgentProcess, request: FileDelete) -> Any:
        owner, stamp = owner_of(process, request), self._tables.stamp(process)
        _, table, _ = await self._tables.open()
        return await self._tables.change(
            owner,
            lambda c: table.delete(c, owner, request.path, stamp, if_version=request.if_version),
        )

    async def _move(self, process: AgentProcess, request: FileMove) -> Any:
        owner, stamp = owner_of(process, request), self._tables.stamp(process)
        _, table, _ = await self._tables.open()
        moved = await self._tables.change(
            owner,
            lambda c: table.move(
                c, owner, request.path, request.to, stamp, if_version=request.if_version
            ),
        )
        is_known = moved.path == request.to  # else a file in the moved directory, a new name
        return moved if is_known else with_labels(moved, moved.labels | moved.name_labels)

    async def _rollback(self, process: AgentProcess, request: FileRollback) -> Any:
        owner, stamp = owner_of(process, request), self._tables.stamp(process)
        _, table, _ = await self._tables.open()
        await self._tables.verify(lambda c: table.blobs_of(c, owner, request.path, request.version))
        return await self._tables.change(
            owner,
            lambda c: table.rollback(
                c, owner, request.path, request.version, stamp, if_version=request.if_version
            ),
        )

    async def _purge(self, process: AgentProcess, request: FilePurge) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        freed = await self._tables.change(
            owner, lambda c: table.purge(c, owner, request.path, request.before)
        )
        self._collector.schedule()
        return freed

    async def _usage(self, process: AgentProcess, request: StorageMeasure) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        usage, labels = await self._tables.read(
            lambda c: (table.accounts.usage(c, owner), table.labels_of_owner(c, owner))
        )
        return with_labels(usage, labels)

    # --- watching and finding ----------------------------------------------------------------

    async def _changes(self, process: AgentProcess, request: FileChanges) -> Any:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        return with_all_labels(
            await self._tables.read(
                lambda c: table.changes(
                    c, owner, request.path, after=request.after, limit=request.limit
                )
            )
        )

    async def _wait(self, process: AgentProcess, request: FileWait) -> int:
        owner = owner_of(process, request)
        _, table, _ = await self._tables.open()
        with self._notifier.next_change(
            owner
        ) as change:  # before the read, so that no change is missed
            last = await self._tables.read(lambda c: table.last_change(c, owner))
            if request.after < 0 or last > request.after:
                return last
            done, _ = await asyncio.wait({change}, timeout=request.wait_s)
            return await self._tables.read(lambda c: table.last_change(c, owner)) if done else last

    async def _retrieve(self, process: AgentProcess, request: FileRetrieve) -> Any:
        owner = owner_of(process, request)
        if self._index is None:
            raise InvalidRequest("storage.retrieve needs a semantic index; this kernel has none")
        _, table, _ = await self._tables.open()
        seq = await self._tables.read(lambda c: table.last_change(c, owner))
        hits = await self._index.retrieve(
            process, owner, request.query, k=request.k, path=request.path, seq=seq
        )
        return with_all_labels(hits)

    async def changed(self, after: int, limit: int = 256) -> Sequence[FileState]:
        """Return the states of files with a last change above `after` (see `FileFeed`)."""
        _, table, _ = await self._tables.open()
        return await self._tables.read(lambda c: table.states(c, after, limit))

    async def content(self, state: FileState) -> bytes | None:
        """Return the content of a state; None: a newer one follows (see `FileFeed`)."""
        _, table, _ = await self._tables.open()
        content = await self._tables.read(lambda c: table.read_state(c, state))
        if content is None or content.data is not None:
            return None if content is None else content.data
        try:
            return await self._background.run_on_thread(partial(table.contents.data, content))
        except StateError:
            if await self._tables.read(lambda c: table.read_state(c, state)) is None:
                return None
            raise

    # --- working directories -----------------------------------------------------------------

    async def checkout(self, identity: str, directory: Path) -> Checkout:
        """Write an agent's files into an empty directory (see `Workspaces`)."""
        state, table, _ = await self._tables.open()
        done = await self._background.run_on_thread(
            partial(check_out, state, table, identity, directory)
        )
        self._checkouts.add(done)
        return done

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> CommitResult:
        """Store the changes in a checked-out directory (see `Workspaces`)."""
        done = self._checkouts.take(identity, directory)
        state, table, _ = await self._tables.open()
        stamp = Stamp(identity, self._now(), labels | done.labels)
        limit = self._config.max_file_bytes

        async def take() -> CommitResult:
            try:
                return await self._background.run_on_thread(
                    partial(commit_checkout, state, table, done, stamp, limit)
                )
            finally:
                self._collector.schedule()
                await finish_shielded(self._tables.announce(identity))

        return await self._background.run_shielded(take())
