"""Serves the storage requests: on the kernel's loop, with all work on other threads.

    request ──> database threads (rows) ──> storage threads (large contents, mounts) ──> answer
                                   └──> watchers and the semantic index, once it is durable

A change that was begun is finished and made known even if its caller goes away.
Whether a caller may do what it asks was decided before; origin labels are taken
from the process and given back with what is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aios_core.config import StorageConfig
from aios_core.errors import (
    Conflict,
    InvalidRequest,
    KernelClosed,
    NoSuchObject,
    StateError,
)
from aios_core.manager import all_labelled, labelled
from aios_core.permissions import Resource
from aios_core.process import AgentProcess
from aios_core.state import Connection, State, StateOpener
from aios_core.storage.background import Work
from aios_core.storage.blob_collector import Collector
from aios_core.storage.change_notifier import News
from aios_core.storage.content_store import INLINE_BYTES, Content
from aios_core.storage.diff import unified
from aios_core.storage.files import FileTable
from aios_core.storage.mount_service import SharedFiles
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
    StorageUsage,
    TreeForget,
    TreeList,
    TreeRestore,
    TreeSnapshot,
)
from aios_core.storage.schema import COMPONENT, SCHEMA
from aios_core.storage.semantic_index import FileState, SemanticIndex
from aios_core.storage.tree_snapshots import TreeTable
from aios_core.storage.workspace import Checkout, Checkouts, Committed, take_back, write_out
from aios_core.syscalls import Request

T = TypeVar("T")
Handler = Callable[[AgentProcess, Any], Awaitable[Any]]


class StorageManager:
    """See the module. Also a `FileFeed` for its index, and `Workspaces` for whoever runs code.

    Args:
        state: where files are kept; opened with the first request.
        config: limits, quotas, mounts.
        index: searches by meaning; None: `FileRetrieve` is refused.
        now: seconds since 1970.
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
        self._state = state
        self._state.add_migrations(COMPONENT, SCHEMA)
        self._index = index
        self._now = now
        self._mounts = Mounts(self._config.mounts, self._config.max_file_bytes)
        self._work = Work()
        self._shared = SharedFiles(self._mounts, self._work, now)
        self._collector = Collector(state, self._work)
        self._news = News()
        self._checkouts = Checkouts()
        self._opened: tuple[State, FileTable, TreeTable] | None = None
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
            StorageUsage: self._usage,
            TreeForget: self._forget_tree,
            TreeList: self._trees,
            TreeRestore: self._restore,
            TreeSnapshot: self._snapshot,
        }

    def __repr__(self) -> str:
        return f"<StorageManager: {len(self._work)} changes under way>"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return tuple(self._handlers)

    async def start(self) -> None:
        """Raises `ConfigError` for a mount that cannot be."""
        if self._config.mounts:
            await asyncio.to_thread(self._mounts.require)
        if self._index is not None:
            await self._index.start(self)

    async def prepare(self, process: AgentProcess, request: Any) -> Any:  # noqa: ARG002 - `Preparing`
        """A write into a mount may be a `FileCreate`."""
        if isinstance(request, FileWrite) and request.is_shared:
            return await self._shared.told_apart(request)
        return request

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        if request.is_shared:
            state, _, _ = await self._tables()
            return await self._shared.perform(process, request, state.database)
        try:
            return await self._handlers[type(request)](process, request)
        except NoSuchObject as exc:
            if request.owner in (None, process.identity):
                raise
            raise NoSuchObject(exc.kind, exc.name, of=exc.of) from None  # what else it has, is its

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether an owner has a file at a path or below it."""
        if resource.kind != "file" or resource.owner is None:
            return None
        owner, path = resource.owner, resource.name or ROOT
        if path == ROOT:
            return True
        _, table, _ = await self._tables()
        find = partial(
            table.listing, owner=owner, root=path.rstrip("/"), deleted=False, after=None, limit=1
        )
        return bool(await self._look(find))

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity ever kept a file."""
        query = "SELECT 1 FROM file_usage WHERE owner = ?"
        return bool(await self._look(lambda c: c.execute(query, (identity,)).fetchall()))

    def forget(self, process: AgentProcess) -> None:
        """Files outlive their agents; nothing is kept for the process itself."""

    async def close(self) -> None:
        """Finish the changes under way; let go of mounts and threads."""
        await self._work.drain()
        if self._index is not None:
            await self._index.close()
        await self._work.close()
        self._mounts.close()

    def check(self) -> None:
        if self._index is not None:
            self._index.check()

    # --- files -------------------------------------------------------------------------------

    async def _read(self, process: AgentProcess, request: FileRead) -> Any:
        content = await self._content(_owner(process, request), request)
        return labelled(content, content.labels)

    async def _content(self, owner: str, request: FileRead) -> FileContent:
        state, table, _ = await self._tables()
        for attempt in (1, 2):
            version, content = await state.database.aread(
                lambda c: table.read(c, owner, request.path, request.version)
            )
            try:
                data = content.data
                if data is None:
                    data = await self._work.on_thread(partial(table.contents.data, content))
                return FileContent(data, version.version, version.labels)
            except StateError:
                if attempt == 2:  # the first time, it may just have been dropped
                    raise
        raise KernelClosed("unreachable")

    async def _stat(self, process: AgentProcess, request: FileStat) -> Any:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        file = await self._look(lambda c: table.stat(c, owner, request.path))
        return labelled(file, file.labels)

    async def _list(self, process: AgentProcess, request: FileList) -> Any:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        return all_labelled(
            await self._look(
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
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        return all_labelled(await self._look(lambda c: table.history(c, owner, request.path)))

    async def _diff(self, process: AgentProcess, request: FileDiff) -> Any:
        owner, path = _owner(process, request), request.path
        _, table, _ = await self._tables()
        history = await self._look(lambda c: table.history(c, owner, path))
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
        told = await self._work.on_thread(partial(unified, path, *texts))
        return labelled(told, texts[0].labels | texts[1].labels)

    async def _write(self, process: AgentProcess, request: FileWrite | FileCreate) -> FileVersion:
        owner = _owner(process, request)
        if_version = request.if_version
        if isinstance(request, FileCreate):
            if if_version:
                raise InvalidRequest("if_version: a file that is created has none")
            if_version = 0
        stamp = self._stamp(process)
        return await self._work.finish(
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
        return await self._work.finish(self._add(process, request, self._stamp(process)))

    async def _add(self, process: AgentProcess, request: FileAppend, stamp: Stamp) -> FileVersion:
        """Read, add, write unless somebody else wrote meanwhile; then again."""
        owner, path = _owner(process, request), request.path
        lock = self._appending.setdefault((owner, path), asyncio.Lock())
        async with lock:
            while True:
                try:
                    old = await self._content(owner, FileRead(path))
                except NoSuchObject:
                    old = FileContent(b"", 0)
                if request.if_version not in (None, old.version):
                    raise Conflict(
                        f"{path} is at version {old.version}, and version {request.if_version} "
                        "was expected; read it again"
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
                        raise  # something else is in the way

    async def _version(self, owner: str, path: str) -> int:
        _, table, _ = await self._tables()
        row = await self._look(lambda c: table.find(c, owner, path))
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
        _, table, _ = await self._tables()
        if len(data) <= INLINE_BYTES:
            content = Content(len(data), data)
        else:
            content = await self._work.on_thread(partial(table.contents.store, data))
        try:
            return await self._commit(
                owner,
                lambda c: table.write(
                    c, owner, path, content, stamp, change=change, if_version=if_version
                ),
            )
        except BaseException:
            if content.blob is not None:
                table.contents.discard(content)
                self._collector.look_soon()
            raise
        finally:
            if content.blob is not None:
                self._collector.stored_large()

    async def _delete(self, process: AgentProcess, request: FileDelete) -> Any:
        owner, stamp = _owner(process, request), self._stamp(process)
        _, table, _ = await self._tables()
        return await self._change(
            owner,
            lambda c: table.delete(c, owner, request.path, stamp, if_version=request.if_version),
        )

    async def _move(self, process: AgentProcess, request: FileMove) -> Any:
        owner, stamp = _owner(process, request), self._stamp(process)
        _, table, _ = await self._tables()
        moved = await self._change(
            owner,
            lambda c: table.move(
                c, owner, request.path, request.to, stamp, if_version=request.if_version
            ),
        )
        is_known = moved.path == request.to  # else it is a file that a directory held
        return moved if is_known else labelled(moved, moved.labels | moved.name_labels)

    async def _rollback(self, process: AgentProcess, request: FileRollback) -> Any:
        owner, stamp = _owner(process, request), self._stamp(process)
        _, table, _ = await self._tables()
        await self._verify(lambda c: table.blobs_of(c, owner, request.path, request.version))
        return await self._change(
            owner,
            lambda c: table.rollback(
                c, owner, request.path, request.version, stamp, if_version=request.if_version
            ),
        )

    async def _purge(self, process: AgentProcess, request: FilePurge) -> Any:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        freed = await self._change(
            owner, lambda c: table.purge(c, owner, request.path, request.before)
        )
        self._collector.look_soon()
        return freed

    async def _usage(self, process: AgentProcess, request: StorageUsage) -> Any:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        usage, labels = await self._look(
            lambda c: (table.ledger.usage(c, owner), table.labels_of_owner(c, owner))
        )
        return labelled(usage, labels)

    # --- trees -------------------------------------------------------------------------------

    async def _snapshot(self, process: AgentProcess, request: TreeSnapshot) -> Any:
        owner, stamp = _owner(process, request), self._stamp(process)
        _, _, trees = await self._tables()
        return await self._change(
            owner,
            lambda c: trees.save(
                c, owner, request.path, request.name, stamp.at, labels=stamp.labels
            ),
        )

    async def _restore(self, process: AgentProcess, request: TreeRestore) -> Any:
        owner, stamp = _owner(process, request), self._stamp(process)
        _, _, trees = await self._tables()
        await self._verify(lambda c: trees.blobs_of(c, owner, request.name))
        return await self._change(
            owner, lambda c: trees.restore(c, owner, request.path, request.name, stamp)
        )

    async def _forget_tree(self, process: AgentProcess, request: TreeForget) -> Any:
        owner = _owner(process, request)
        _, _, trees = await self._tables()
        return await self._change(
            owner, lambda c: trees.forget(c, owner, request.path, request.name)
        )

    async def _trees(self, process: AgentProcess, request: TreeList) -> Any:
        owner = _owner(process, request)
        _, _, trees = await self._tables()
        return all_labelled(await self._look(lambda c: trees.listing(c, owner, request.path)))

    # --- watching and finding ----------------------------------------------------------------

    async def _changes(self, process: AgentProcess, request: FileChanges) -> Any:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        return all_labelled(
            await self._look(
                lambda c: table.changes(
                    c, owner, request.path, after=request.after, limit=request.limit
                )
            )
        )

    async def _wait(self, process: AgentProcess, request: FileWait) -> int:
        owner = _owner(process, request)
        _, table, _ = await self._tables()
        with self._news.next_of(owner) as change:  # before looking: nothing is missed in between
            last = await self._look(lambda c: table.last_change(c, owner))
            if request.after < 0 or last > request.after:
                return last
            done, _ = await asyncio.wait({change}, timeout=request.wait_s)
            return await self._look(lambda c: table.last_change(c, owner)) if done else last

    async def _retrieve(self, process: AgentProcess, request: FileRetrieve) -> Any:
        owner = _owner(process, request)
        if self._index is None:
            raise InvalidRequest("this kernel has no semantic index")
        _, table, _ = await self._tables()
        seq = await self._look(lambda c: table.last_change(c, owner))
        hits = await self._index.retrieve(
            process, owner, request.query, k=request.k, path=request.path, seq=seq
        )
        return all_labelled(hits)

    async def changed(self, after: int, limit: int = 256) -> Sequence[FileState]:
        """For the index: the files whose last change has a number above `after`."""
        _, table, _ = await self._tables()
        return await self._look(lambda c: table.states(c, after, limit))

    async def content(self, state: FileState) -> bytes | None:
        """For the index: the content of a state; None: a newer one follows."""
        _, table, _ = await self._tables()
        content = await self._look(lambda c: table.read_state(c, state))
        if content is None or content.data is not None:
            return None if content is None else content.data
        try:
            return await self._work.on_thread(partial(table.contents.data, content))
        except StateError:
            if await self._look(lambda c: table.read_state(c, state)) is None:
                return None
            raise

    # --- working directories -----------------------------------------------------------------

    async def checkout(self, identity: str, directory: Path) -> Checkout:
        """See `Workspaces`."""
        state, table, _ = await self._tables()
        done = await self._work.on_thread(partial(write_out, state, table, identity, directory))
        self._checkouts.add(done)
        return done

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> Committed:
        """See `Workspaces`."""
        done = self._checkouts.take(identity, directory)
        state, table, _ = await self._tables()
        stamp = Stamp(identity, self._now(), labels | done.labels)
        limit = self._config.max_file_bytes

        async def take() -> Committed:
            try:
                return await self._work.on_thread(
                    partial(take_back, state, table, done, stamp, limit)
                )
            finally:
                self._collector.look_soon()
                await self._announce(identity)

        return await self._work.finish(take())

    # --- inside ------------------------------------------------------------------------------

    async def _tables(self) -> tuple[State, FileTable, TreeTable]:
        state = await self._state.opened()
        if self._opened is None or self._opened[0] is not state:
            table = FileTable(state.vault, state.blobs, self._config)
            self._opened = (state, table, TreeTable(table, self._config.max_snapshots))
        return self._opened

    async def _look(self, work: Callable[[Connection], T]) -> T:
        state, _, _ = await self._tables()
        return await state.database.aread(work)

    async def _verify(self, find: Callable[[Connection], Sequence[str]]) -> None:
        """Look at blobs to which new rows will refer, off the thread that writes."""
        state, _, _ = await self._tables()
        if blobs := await self._look(find):
            await self._work.on_thread(partial(state.blobs.verify_all, blobs))

    def _stamp(self, process: AgentProcess) -> Stamp:
        return Stamp(process.identity, self._now(), frozenset(process.labels))

    async def _change(self, owner: str, work: Callable[[Connection], T]) -> T:
        return await self._work.finish(self._commit(owner, work))

    async def _commit(self, owner: str, work: Callable[[Connection], T]) -> T:
        """Make a change and, once it is durable, make it known."""
        state, table, _ = await self._tables()
        done, seq = await state.database.awrite(lambda c: (work(c), table.last_change(c, owner)))
        self._make_known(owner, seq)
        return done

    async def _announce(self, owner: str) -> None:
        _, table, _ = await self._tables()
        self._make_known(owner, await self._look(lambda c: table.last_change(c, owner)))

    def _make_known(self, owner: str, seq: int) -> None:
        self._news.tell(owner)
        if self._index is not None:
            self._index.notify(seq)


def _owner(process: AgentProcess, request: Any) -> str:
    """Whose files are meant: the caller's, unless the request says otherwise."""
    return str(request.owner or process.identity)
