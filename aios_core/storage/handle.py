"""The versioned files of one agent: `agent.storage`."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass

from aios_core.grants import AccessGrant, AccessRevoke, warn_of
from aios_core.manager import Port
from aios_core.messages import require_unicode
from aios_core.permissions import Resource, Right
from aios_core.storage.paths import ROOT, canonical
from aios_core.storage.records import FileContent, FileVersion, SavedTree, StorageUsage, StoredFile
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
    StorageMeasure,
    TreeDelete,
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
    """The versioned files of one agent. Every method is one syscall or more.

    Each blocking method has an async form, with "a" before its name. `owner` is the identity of
    another agent, for access to files that it shared. Paths below "/mnt" are in the shared
    mounts. With `if_version`, a change is made only if that is the newest version of the file (0:
    there is no file), and raises `Conflict` otherwise.

    Every method can raise `InvalidPath`, `InvalidRequest`, `NoSuchObject`, `Conflict`,
    `QuotaExceeded`, `AccessDenied`, `ApprovalRefused`, `StateError`, `DeadlineExceeded`,
    `SyscallCancelled` and `KernelClosed`; the blocking ones `WouldBlock` on the kernel's own loop.
    """

    _port: Port

    # --- contents ----------------------------------------------------------------------------

    def create(
        self, path: str, data: str | bytes = b"", *, owner: str | None = None
    ) -> FileVersion:
        """Create a file. Raises `Conflict` if it exists."""
        return self._port.call(FileCreate(path, _bytes(data), owner=owner))

    async def acreate(
        self, path: str, data: str | bytes = b"", *, owner: str | None = None
    ) -> FileVersion:
        """Create a file (async form of `create`)."""
        return await self._port.acall(FileCreate(path, _bytes(data), owner=owner))

    def write(
        self,
        path: str,
        data: str | bytes,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        """Write a file as a new version; it is created if it does not exist. Texts become UTF-8."""
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
        """Write a file as a new version (async form of `write`)."""
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
        """Append to a file as a new version; it is created if it does not exist."""
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
        """Append to a file as a new version (async form of `append`)."""
        request = FileAppend(path, _bytes(data), if_version=if_version, owner=owner)
        return await self._port.acall(request)

    def read(self, path: str, *, version: int | None = None, owner: str | None = None) -> bytes:
        """Read a file, or one of its versions, as bytes."""
        return self.fetch(path, version=version, owner=owner).data

    async def aread(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> bytes:
        """Read a file, or one of its versions, as bytes (async form of `read`)."""
        return (await self.afetch(path, version=version, owner=owner)).data

    def read_text(self, path: str, *, version: int | None = None, owner: str | None = None) -> str:
        """Read a file, or one of its versions, as text; invalid UTF-8 is replaced by U+FFFD."""
        return self.fetch(path, version=version, owner=owner).text

    async def aread_text(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> str:
        """Read a file, or one of its versions, as text (async form of `read_text`)."""
        return (await self.afetch(path, version=version, owner=owner)).text

    def fetch(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> FileContent:
        """Read a file with its version and labels; the version can be passed on as `if_version`."""
        return self._port.call(FileRead(path, version=version, owner=owner))

    async def afetch(
        self, path: str, *, version: int | None = None, owner: str | None = None
    ) -> FileContent:
        """Read a file with its version and labels (async form of `fetch`)."""
        return await self._port.acall(FileRead(path, version=version, owner=owner))

    # --- places ------------------------------------------------------------------------------

    def stat(self, path: str, *, owner: str | None = None) -> StoredFile:
        """Return the metadata of a file, also of a deleted one."""
        return self._port.call(FileStat(path, owner=owner))

    async def astat(self, path: str, *, owner: str | None = None) -> StoredFile:
        """Return the metadata of a file, also of a deleted one (async form of `stat`)."""
        return await self._port.acall(FileStat(path, owner=owner))

    def list(
        self, path: str = ROOT, *, deleted: bool = False, owner: str | None = None
    ) -> builtins.list[StoredFile]:
        """List all files below a directory, sorted by path; with `deleted`, the deleted ones."""
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
        """List all files below a directory, sorted by path (async form of `list`)."""
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
        """Move a file or a directory, with the history of all its files."""
        return self._port.call(FileMove(path, to, if_version=if_version, owner=owner))

    async def amove(
        self, path: str, to: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        """Move a file or a directory, with the history of files (async form of `move`)."""
        return await self._port.acall(FileMove(path, to, if_version=if_version, owner=owner))

    def delete(
        self, path: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        """Delete a file, as a new version. `rollback` restores it."""
        return self._port.call(FileDelete(path, if_version=if_version, owner=owner))

    async def adelete(
        self, path: str, *, if_version: int | None = None, owner: str | None = None
    ) -> FileVersion:
        """Delete a file, as a new version (async form of `delete`)."""
        return await self._port.acall(FileDelete(path, if_version=if_version, owner=owner))

    def purge(self, path: str, *, before: int | None = None, owner: str | None = None) -> int:
        """Remove a deleted file with its history permanently. Returns the bytes freed.

        With `before`, remove the versions before that one instead; the file need not be deleted.
        """
        return self._port.call(FilePurge(path, before=before, owner=owner))

    async def apurge(
        self, path: str, *, before: int | None = None, owner: str | None = None
    ) -> int:
        """Remove a deleted file with its history permanently (async form of `purge`)."""
        return await self._port.acall(FilePurge(path, before=before, owner=owner))

    def usage(self, *, owner: str | None = None) -> StorageUsage:
        """Return the storage usage and quota."""
        return self._port.call(StorageMeasure(owner=owner))

    async def ausage(self, *, owner: str | None = None) -> StorageUsage:
        """Return the storage usage and quota (async form of `usage`)."""
        return await self._port.acall(StorageMeasure(owner=owner))

    # --- versions ----------------------------------------------------------------------------

    def history(self, path: str, *, owner: str | None = None) -> builtins.list[FileVersion]:
        """List the versions of a file, the newest first."""
        return [*self._port.call(FileHistory(path, owner=owner))]

    async def ahistory(self, path: str, *, owner: str | None = None) -> builtins.list[FileVersion]:
        """List the versions of a file, the newest first (async form of `history`)."""
        return [*await self._port.acall(FileHistory(path, owner=owner))]

    def diff(
        self,
        path: str,
        old: int | None = None,
        new: int | None = None,
        *,
        owner: str | None = None,
    ) -> str:
        """Compare two versions of a file as a unified diff.

        Without `new`, the newest version is compared; without `old`, the version before `new`.
        """
        return self._port.call(FileDiff(path, old=old, new=new, owner=owner))

    async def adiff(
        self,
        path: str,
        old: int | None = None,
        new: int | None = None,
        *,
        owner: str | None = None,
    ) -> str:
        """Compare two versions of a file as a unified diff (async form of `diff`)."""
        return await self._port.acall(FileDiff(path, old=old, new=new, owner=owner))

    def rollback(
        self,
        path: str,
        version: int,
        *,
        if_version: int | None = None,
        owner: str | None = None,
    ) -> FileVersion:
        """Make the content of an older version the newest one. Restores a deleted file too."""
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
        """Make the content of an older version the newest one (async form of `rollback`)."""
        request = FileRollback(path, version, if_version=if_version, owner=owner)
        return await self._port.acall(request)

    # --- trees -------------------------------------------------------------------------------

    def snapshot(self, name: str, path: str = ROOT, *, owner: str | None = None) -> SavedTree:
        """Save the versions and paths of all files below a path under a name. Copies no content."""
        return self._port.call(TreeSnapshot(path, name, owner=owner))

    async def asnapshot(
        self, name: str, path: str = ROOT, *, owner: str | None = None
    ) -> SavedTree:
        """Save the versions and paths of all files below a path (async form of `snapshot`)."""
        return await self._port.acall(TreeSnapshot(path, name, owner=owner))

    def restore_snapshot(self, name: str, path: str = ROOT, *, owner: str | None = None) -> int:
        """Restore the tree below a path from a snapshot. Returns how many files changed."""
        return self._port.call(TreeRestore(path, name, owner=owner))

    async def arestore_snapshot(
        self, name: str, path: str = ROOT, *, owner: str | None = None
    ) -> int:
        """Restore the tree below a path from a snapshot (async form of `restore_snapshot`)."""
        return await self._port.acall(TreeRestore(path, name, owner=owner))

    def delete_snapshot(self, name: str, path: str = ROOT, *, owner: str | None = None) -> None:
        """Delete a snapshot."""
        self._port.call(TreeDelete(path, name, owner=owner))

    async def adelete_snapshot(
        self, name: str, path: str = ROOT, *, owner: str | None = None
    ) -> None:
        """Delete a snapshot (async form of `delete_snapshot`)."""
        await self._port.acall(TreeDelete(path, name, owner=owner))

    def snapshots(self, path: str = ROOT, *, owner: str | None = None) -> builtins.list[SavedTree]:
        """List the snapshots of trees at or below a path, the oldest first."""
        return [*self._port.call(TreeList(path, owner=owner))]

    async def asnapshots(
        self, path: str = ROOT, *, owner: str | None = None
    ) -> builtins.list[SavedTree]:
        """List the snapshots of trees at or below a path (async form of `snapshots`)."""
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
        """Grant others access to a file, or to all files below a directory.

        Warns (`ShareWarning`) if there is nothing at the path or the receiver does not exist.

        Args:
            path: a file or directory of this agent.
            to: an identity, "group:NAME", or "*" for every agent.
            rights: "read" or "write", or both as a list; "write" does not include "read".
            for_s: seconds until the grant expires; None: until `unshare`.
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
        """Grant others access to a file or directory (async form of `share`)."""
        warn_of(await self._port.acall(AccessGrant(self._own(path), to, _rights(rights), for_s)))

    def unshare(self, path: str, to: str) -> None:
        """Revoke a grant that `share` gave. Raises `NoSuchObject` if there is none."""
        self._port.call(AccessRevoke(self._own(path), to))

    async def aunshare(self, path: str, to: str) -> None:
        """Revoke a grant that `share` gave (async form of `unshare`)."""
        await self._port.acall(AccessRevoke(self._own(path), to))

    def watch(
        self,
        path: str = ROOT,
        *,
        after: int | None = None,
        quiet_s: float | None = None,
        owner: str | None = None,
    ) -> Watch:
        """Watch the changes below a path from now on.

        Args:
            path: a file or directory.
            after: start after the change with this `seq` instead.
            quiet_s: end the stream after this many seconds without a change; None: never.
            owner: the agent that shared the files; None: this agent.
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
        """Watch the changes below a path from now on (async form of `watch`)."""
        return AsyncWatch(self._port, path, owner=owner, after=after, quiet_s=quiet_s)

    def retrieve(
        self, query: str, *, k: int = 5, path: str = ROOT, owner: str | None = None
    ) -> builtins.list[Hit]:
        """Find the `k` chunks of files below a path nearest in meaning to a text, best first."""
        return [*self._port.call(FileRetrieve(path, query, k=k, owner=owner))]

    async def aretrieve(
        self, query: str, *, k: int = 5, path: str = ROOT, owner: str | None = None
    ) -> builtins.list[Hit]:
        """Find the chunks of files nearest in meaning to a text (async form of `retrieve`)."""
        return [*await self._port.acall(FileRetrieve(path, query, k=k, owner=owner))]

    def _own(self, path: str) -> Resource:
        name = canonical(path)
        return Resource("file", self._port.identity, "" if name == ROOT else name)


@reads_arguments
def _bytes(data: str | bytes) -> bytes:
    """Encode a text as UTF-8. Leave other values to the request, which refuses wrong types."""
    if not isinstance(data, str):
        return data
    require_unicode("data", data)
    return data.encode()


def _rights(rights: Rights) -> frozenset[Right]:
    return rights  # type: ignore[return-value]  # the request turns one right or several into a set
