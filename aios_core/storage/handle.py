"""The storage syscalls of one agent: what a developer writes as `agent.storage`."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass

from aios_core.grants import AccessGrant, AccessRevoke, warn_of
from aios_core.manager import Port
from aios_core.messages import require_unicode
from aios_core.permissions import Resource, Right
from aios_core.storage.paths import ROOT, canonical
from aios_core.storage.records import FileContent, FileVersion, SavedTree, StorageSpace, StoredFile
from aios_core.storage.requests import (
    MAX_LISTED,
    FileAppend,
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
    FileWrite,
    StorageUsage,
    TreeForget,
    TreeList,
    TreeRestore,
    TreeSnapshot,
)
from aios_core.storage.semantic_index import Hit
from aios_core.storage.watch import AsyncWatch, Watch
from aios_core.untrusted.arguments import reads_arguments

Rights = str | Right | Iterable[str | Right]


@dataclass(frozen=True, slots=True)
class Storage:
    """See the module. Each blocking method has an async twin, its name with an "a" in front.

    `owner` is the identity of another agent, whose files a grant opens. Paths below
    "/mnt" are in the shared mounts. `if_version` makes a change only if the file is
    still at that version (0: not there), and raises `Conflict` otherwise.

    All raise `InvalidPath`, `NoSuchObject`, `Conflict`, `QuotaExceeded`, `AccessDenied`,
    `DeadlineExceeded`, `SyscallCancelled`, `KernelClosed`; the blocking ones `WouldBlock`
    on the kernel's own loop.
    """

    _port: Port

    # --- contents ----------------------------------------------------------------------------

    def create(
        self, path: str, data: str | bytes = b"", *, owner: str | None = None
    ) -> FileVersion:
        """Make a file that is not there."""
        return self._port.call(FileCreate(path, _bytes(data), owner=owner))

    async def acreate(
        self, path: str, data: str | bytes = b"", *, owner: str | None = None
    ) -> FileVersion:
        return await self._port.acall(FileCreate(path, _bytes(data), owner=owner))

    def write(
        self,
        path: str,
        data: str | bytes,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        """Give a file its content, as a new version; text as UTF-8."""
        request = FileWrite(path, _bytes(data), if_version=if_version, owner=owner)
        return self._port.call(request)

    async def awrite(
        self,
        path: str,
        data: str | bytes,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        request = FileWrite(path, _bytes(data), if_version=if_version, owner=owner)
        return await self._port.acall(request)

    def append(
        self,
        path: str,
        data: str | bytes,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        """Add to the end of a file, as a new version."""
        request = FileAppend(path, _bytes(data), if_version=if_version, owner=owner)
        return self._port.call(request)

    async def aappend(
        self,
        path: str,
        data: str | bytes,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        request = FileAppend(path, _bytes(data), if_version=if_version, owner=owner)
        return await self._port.acall(request)

    def read(self, path: str, *, version: int | None = None, owner: str | None = None) -> bytes:
        """The content of a file, or of one of its versions."""
        return self.fetch(path, version=version, owner=owner).data

    async def aread(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> bytes:
        return (await self.afetch(path, version=version, owner=owner)).data

    def read_text(self, path: str, *, version: int | None = None, owner: str | None = None) -> str:
        """The same as text; bytes that are no UTF-8 are replaced by U+FFFD."""
        return self.fetch(path, version=version, owner=owner).text

    async def aread_text(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> str:
        return (await self.afetch(path, version=version, owner=owner)).text

    def fetch(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> FileContent:
        """The content with the version that it is, for `if_version`."""
        return self._port.call(FileRead(path, version=version, owner=owner))

    async def afetch(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> FileContent:
        return await self._port.acall(FileRead(path, version=version, owner=owner))

    # --- places ------------------------------------------------------------------------------

    def stat(self, path: str, *, owner: str | None = None) -> StoredFile:
        """What is known of a file, also of a deleted one."""
        return self._port.call(FileStat(path, owner=owner))

    async def astat(self, path: str, *, owner: str | None = None) -> StoredFile:
        return await self._port.acall(FileStat(path, owner=owner))

    def list(
        self, path: str = ROOT, *, deleted: bool = False, owner: str | None = None
    ) -> builtins.list[StoredFile]:
        """All files below a directory, by path; those that were deleted if `deleted`."""
        found: builtins.list[StoredFile] = []
        while True:
            after = found[-1].path if found else None
            page = self._port.call(FileList(path, deleted=deleted, after=after, owner=owner))
            found.extend(page)
            if len(page) < MAX_LISTED:
                return found

    async def alist(
        self, path: str = ROOT, *, deleted: bool = False, owner: str | None = None
    ) -> builtins.list[StoredFile]:
        found: builtins.list[StoredFile] = []
        while True:
            after = found[-1].path if found else None
            request = FileList(path, deleted=deleted, after=after, owner=owner)
            page = await self._port.acall(request)
            found.extend(page)
            if len(page) < MAX_LISTED:
                return found

    def move(
        self, path: str, to: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        """Give a file, or all below a directory, another path; the history goes along."""
        return self._port.call(FileMove(path, to, if_version=if_version, owner=owner))

    async def amove(
        self, path: str, to: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        return await self._port.acall(FileMove(path, to, if_version=if_version, owner=owner))

    def delete(
        self, path: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        """Delete a file; `rollback` brings it back."""
        return self._port.call(FileDelete(path, if_version=if_version, owner=owner))

    async def adelete(
        self, path: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        return await self._port.acall(FileDelete(path, if_version=if_version, owner=owner))

    def purge(self, path: str, *, before: int | None = None, owner: str | None = None) -> int:
        """Forget a deleted file with its history, or the versions before one; bytes freed."""
        return self._port.call(FilePurge(path, before=before, owner=owner))

    async def apurge(
        self, path: str, *, before: int | None = None, owner: str | None = None
    ) -> int:
        return await self._port.acall(FilePurge(path, before=before, owner=owner))

    def usage(self, *, owner: str | None = None) -> StorageSpace:
        """What is kept, and may be kept."""
        return self._port.call(StorageUsage(owner=owner))

    async def ausage(self, *, owner: str | None = None) -> StorageSpace:
        return await self._port.acall(StorageUsage(owner=owner))

    # --- versions ----------------------------------------------------------------------------

    def history(self, path: str, *, owner: str | None = None) -> builtins.list[FileVersion]:
        """The versions of a file, the newest first."""
        return [*self._port.call(FileHistory(path, owner=owner))]

    async def ahistory(self, path: str, *, owner: str | None = None) -> builtins.list[FileVersion]:
        return [*await self._port.acall(FileHistory(path, owner=owner))]

    def diff(
        self,
        path: str,
        old: int | None = None,
        new: int | None = None,
        *,
        owner: str | None = None,
    ) -> str:
        """A unified diff; by default of the newest version and the one before."""
        return self._port.call(FileDiff(path, old=old, new=new, owner=owner))

    async def adiff(
        self,
        path: str,
        old: int | None = None,
        new: int | None = None,
        *,
        owner: str | None = None,
    ) -> str:
        return await self._port.acall(FileDiff(path, old=old, new=new, owner=owner))

    def rollback(
        self,
        path: str,
        version: int,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        """Make the content of an older version the newest one."""
        request = FileRollback(path, version, if_version=if_version, owner=owner)
        return self._port.call(request)

    async def arollback(
        self,
        path: str,
        version: int,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        request = FileRollback(path, version, if_version=if_version, owner=owner)
        return await self._port.acall(request)

    # --- trees -------------------------------------------------------------------------------

    def snapshot(self, name: str, path: str = ROOT, *, owner: str | None = None) -> SavedTree:
        """Remember the tree below a path under a name."""
        return self._port.call(TreeSnapshot(path, name, owner=owner))

    async def asnapshot(
        self, name: str, path: str = ROOT, *, owner: str | None = None
    ) -> SavedTree:
        return await self._port.acall(TreeSnapshot(path, name, owner=owner))

    def restore(self, name: str, path: str = ROOT, *, owner: str | None = None) -> int:
        """Make the tree below a path what it was; how many files changed."""
        return self._port.call(TreeRestore(path, name, owner=owner))

    async def arestore(self, name: str, path: str = ROOT, *, owner: str | None = None) -> int:
        return await self._port.acall(TreeRestore(path, name, owner=owner))

    def forget(self, name: str, path: str = ROOT, *, owner: str | None = None) -> None:
        """Drop a snapshot."""
        self._port.call(TreeForget(path, name, owner=owner))

    async def aforget(self, name: str, path: str = ROOT, *, owner: str | None = None) -> None:
        await self._port.acall(TreeForget(path, name, owner=owner))

    def snapshots(self, path: str = ROOT, *, owner: str | None = None) -> builtins.list[SavedTree]:
        """The snapshots of trees at or below a path, the oldest first."""
        return [*self._port.call(TreeList(path, owner=owner))]

    async def asnapshots(
        self, path: str = ROOT, *, owner: str | None = None
    ) -> builtins.list[SavedTree]:
        return [*await self._port.acall(TreeList(path, owner=owner))]

    # --- others ------------------------------------------------------------------------------

    def share(
        self,
        path: str,
        to: str,
        rights: Rights = Right.READ,
        *,
        for_s: float | None = None,
    ) -> None:
        """Let another agent, "group:NAME" or "*" use a file, or all below a directory.

        Warns (`ShareWarning`) if nothing is at the path, or the receiver does not exist.
        """
        warn_of(self._port.call(AccessGrant(self._own(path), to, _rights(rights), for_s)))

    async def ashare(
        self,
        path: str,
        to: str,
        rights: Rights = Right.READ,
        *,
        for_s: float | None = None,
    ) -> None:
        warn_of(await self._port.acall(AccessGrant(self._own(path), to, _rights(rights), for_s)))

    def unshare(self, path: str, to: str) -> None:
        """Take that back."""
        self._port.call(AccessRevoke(self._own(path), to))

    async def aunshare(self, path: str, to: str) -> None:
        await self._port.acall(AccessRevoke(self._own(path), to))

    def watch(
        self,
        path: str = ROOT,
        *,
        after: int | None = None,
        quiet_s: float | None = None,
        owner: str | None = None,
    ) -> Watch:
        """The changes below a path from now on, or after a known one; see `Watch`.

        Ends by itself after `quiet_s` seconds without a change.
        """
        return Watch(self._port, path, owner=owner, after=after, quiet_s=quiet_s)

    def awatch(
        self,
        path: str = ROOT,
        *,
        after: int | None = None,
        quiet_s: float | None = None,
        owner: str | None = None,
    ) -> AsyncWatch:
        return AsyncWatch(self._port, path, owner=owner, after=after, quiet_s=quiet_s)

    def retrieve(
        self, query: str, *, k: int = 5, path: str = ROOT, owner: str | None = None
    ) -> builtins.list[Hit]:
        """The parts of files below a path whose meaning is closest to a text, the best first."""
        return [*self._port.call(FileRetrieve(path, query, k=k, owner=owner))]

    async def aretrieve(
        self, query: str, *, k: int = 5, path: str = ROOT, owner: str | None = None
    ) -> builtins.list[Hit]:
        return [*await self._port.acall(FileRetrieve(path, query, k=k, owner=owner))]

    def _own(self, path: str) -> Resource:
        name = canonical(path)
        return Resource("file", self._port.identity, "" if name == ROOT else name)


@reads_arguments
def _bytes(data: str | bytes) -> bytes:
    """Texts are stored as UTF-8. What is neither is the request's to refuse."""
    if not isinstance(data, str):
        return data
    require_unicode("data", data)
    return data.encode()


def _rights(rights: Rights) -> frozenset[Right]:
    return rights  # type: ignore[return-value]  # the request makes a set of one or several
