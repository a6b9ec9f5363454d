"""Check out an agent's files to a host directory for sandboxed code, and commit the changes.

    checkout = await workspaces.checkout("research/reader", directory)
    ...                                       # sandboxed code reads and writes there
    report = await workspaces.commit("research/reader", directory, labels)

The directory is untrusted at commit: links and special files are skipped, sizes and numbers
are bounded, and files without a canonical path are reported and skipped. All changes are
one transaction. A file that was changed in storage since the checkout is a `Conflict`,
unless both contents are equal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aios_core.errors import (
    Conflict,
    InvalidPath,
    InvalidRequest,
    KernelError,
    NoSuchObject,
    QuotaExceeded,
)
from aios_core.labels import labels_of_all
from aios_core.state import Connection, State
from aios_core.storage.content_store import Content
from aios_core.storage.files import FileTable
from aios_core.storage.mounts import too_large
from aios_core.storage.paths import MOUNTS, ROOT, canonical_file, is_below
from aios_core.storage.records import Stamp, StoredFile
from aios_core.storage.rooted_dir import RootedDir

MAX_FILES: Final = 20_000
_MAX_CHECKOUTS: Final = 1_024  # that can be committed; older ones are forgotten


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checked-out tree: its owner, the directory, and the versions of its files."""

    owner: str
    directory: Path
    versions: Mapping[str, int]  # by path
    labels: frozenset[str]  # of all files together: code in the directory can read all of them


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The result of a commit: the changed paths, and the files that were skipped."""

    written: tuple[str, ...]
    deleted: tuple[str, ...]
    skipped: Mapping[str, str]  # name in the directory -> why it was not stored


class Workspaces(Protocol):
    """Checks out and commits an agent's files, for running code over them."""

    async def checkout(self, identity: str, directory: Path) -> Checkout:
        """Write the agent's files into an empty directory. Returns their versions."""

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> CommitResult:
        """Store the changes in a directory since its checkout, as new versions.

        The versions get the given labels and those of all checked-out files, which the code
        could read. A checkout can be committed once.

        Raises:
            Conflict: a file was changed in storage since the checkout; nothing is stored.
            QuotaExceeded: the changes exceed a quota; nothing is stored.
        """


class Checkouts:
    """The checkouts that can still be committed, each once; beyond a limit, the newest ones."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, Path], Checkout] = OrderedDict()

    def add(self, done: Checkout) -> None:
        self._open[done.owner, done.directory] = done
        while len(self._open) > _MAX_CHECKOUTS:
            self._open.popitem(last=False)

    def take(self, owner: str, directory: Path) -> Checkout:
        """Return a checkout and forget it. Raises `InvalidRequest` if there is none."""
        done = self._open.pop((owner, directory), None)
        if done is None:
            raise InvalidRequest(f"{directory} has no checkout of {owner!r} to commit")
        return done


def check_out(state: State, table: FileTable, owner: str, directory: Path) -> Checkout:
    """Write an owner's files into a directory (`Workspaces.checkout`). Blocks."""

    def files(connection: Connection) -> list[tuple[StoredFile, Content]]:
        listed = table.listing(
            connection, owner, ROOT, deleted=False, after=None, limit=MAX_FILES + 1
        )
        return [(file, table.read(connection, owner, file.path)[1]) for file in listed]

    found = state.database.read(files)
    if len(found) > MAX_FILES:
        raise _too_many(owner, len(found))
    rooted = RootedDir(directory)
    try:
        for file, content in found:
            rooted.place(file.path.removeprefix("/"), table.contents.data(content))
    finally:
        rooted.close()
    labels = labels_of_all([file for file, _ in found])
    return Checkout(owner, directory, {file.path: file.version for file, _ in found}, labels)


def commit_checkout(
    state: State, table: FileTable, checkout: Checkout, stamp: Stamp, max_file_bytes: int
) -> CommitResult:
    """Store the changes in a checked-out directory (`Workspaces.commit`). Blocks."""
    found, skipped = _read_back(checkout, max_file_bytes)
    held: list[Content] = []

    def is_known(connection: Connection, path: str, data: bytes) -> bool:
        """Return whether storage has equal content at the path."""
        try:
            content = table.read(connection, checkout.owner, path)[1]
        except NoSuchObject:
            return False
        return content.size == len(data) and table.contents.data(content) == data

    # Unchanged files are sorted out before the transaction, so that the writer reads no contents.
    known = state.database.read(
        lambda c: {path for path, data in found.items() if is_known(c, path, data)}
    )
    try:
        paths = sorted(found.keys() - known)
        held.extend(table.contents.store(found[path]) for path in paths)
        contents = dict(zip(paths, held, strict=True))

        def store(connection: Connection) -> tuple[str, ...]:
            deleted = []
            for path in sorted(checkout.versions.keys() - found.keys()):
                row = table.find(connection, checkout.owner, path)
                if path not in skipped and row is not None and row.is_live:
                    _require_unchanged(checkout, path, row.version)
                    table.delete(connection, checkout.owner, path, stamp)
                    deleted.append(path)
            for path, content in contents.items():
                row = table.find(connection, checkout.owner, path)
                _require_unchanged(checkout, path, row.live_version if row else 0)
                table.write(connection, checkout.owner, path, content, stamp)
            return tuple(deleted)

        deleted = state.database.write(store)
    finally:
        for content in held:  # stored rows refer to their blobs; the others may be collected
            table.contents.discard(content)
    return CommitResult(tuple(contents), deleted, skipped)


def _read_back(checkout: Checkout, max_file_bytes: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Read the files of a checked-out directory by path, and the reasons for skipped ones."""
    found: dict[str, bytes] = {}
    skipped: dict[str, str] = {}
    rooted = RootedDir(checkout.directory)
    try:
        for number, (name, _) in enumerate(rooted.walk()):
            if number >= MAX_FILES:
                raise _too_many(checkout.owner, number + 1)
            try:
                path = canonical_file("/" + name)
                if path != "/" + name or is_below(path, MOUNTS):
                    reason = f"its canonical path is another one, or it is below {MOUNTS}"
                    raise InvalidPath(name, reason)
                data, _ = rooted.read(name, max_file_bytes)
            except KernelError as exc:
                skipped["/" + name] = str(exc)
                continue
            if len(data) > max_file_bytes:
                raise too_large(path, len(data), max_file_bytes)
            found[path] = data
    finally:
        rooted.close()
    return found, skipped


def _require_unchanged(checkout: Checkout, path: str, version: int) -> None:
    if checkout.versions.get(path, 0) != version:
        raise Conflict(
            f"{path} was changed in storage since the checkout; nothing was stored; "
            "check the files out again"
        )


def _too_many(owner: str, number: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"agent {owner!r}",
        "files in a working directory",
        limit=MAX_FILES,
        used=0,
        requested=number,
        hint="move some of them to another agent or a mount, or delete some",
    )
