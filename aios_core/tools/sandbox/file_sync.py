"""Copy files into the sandbox before code runs, and changed files out afterwards.

Confined code can write nothing on the host, and its files are in memory only, so this is the
one way out of the sandbox. Blocks: do not call it on an event loop.
"""

from __future__ import annotations

import errno
import filecmp
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aios_core.errors import Conflict, QuotaExceeded
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import FileChanges
from aios_core.tools.sandbox.tree import ENTER, Entry, Stamp, Tree

_TICK_NS: Final = 12_000_000  # more than a tick of the clock that file systems take stamps from
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class FileSync:
    """Synchronizes a directory of the host with a tree in the sandbox, copying only changes."""

    def __init__(self, directory: Path, inside: Tree, limits: SandboxLimits) -> None:
        self._directory = directory
        self._inside = inside
        self._limits = limits
        self._seen_outside: dict[str, Stamp] = {}
        self._seen_inside: dict[str, Stamp] = {}

    def push(self) -> None:
        """Copy changed files of the host in, and remove those inside that were removed there.

        Raises:
            QuotaExceeded: the files are more, or larger, than the limits allow.
            Conflict: code put something other than a file in the place of one.
        """
        with _opened(self._directory) as outside:
            walk = outside.walk(self._limits.max_files)
            size = sum(entry.stamp.size for entry in walk.files.values())
            if size > self._limits.disk_bytes or not walk.is_complete:
                raise self._no_room(size, is_complete=walk.is_complete)
            for path in self._seen_outside.keys() - walk.files.keys():
                self._inside.remove(path)
                self._forget(path)
            for path, entry in walk.files.items():
                if self._seen_outside.get(path) != entry.stamp:
                    self._seen_inside[path] = self._copy_in(outside, entry)
                    self._seen_outside[path] = entry.stamp

    def pull(self, *, is_last: bool = False) -> FileChanges:
        """Copy changed files out, and remove those on the host that were removed inside.

        Args:
            is_last: there is no later call, so it need not wait until stamps can differ.
        """
        with _opened(self._directory) as outside:
            walk = self._inside.walk(self._limits.max_files)
            removed = self._seen_inside.keys() - walk.files.keys() if walk.is_complete else set()
            for path in removed:
                outside.remove(path)
                self._forget(path)
            written, skipped, room = [], list(walk.skipped), self._limits.disk_bytes
            for path, entry in sorted(walk.files.items()):
                if self._seen_inside.get(path) == entry.stamp:
                    continue
                room -= entry.stamp.size  # the apparent size; holes count too
                stamp = self._copy_out(outside, entry) if room >= 0 else None
                if stamp is None:
                    skipped.append(path)
                else:
                    written.append(path)
                    self._seen_outside[path], self._seen_inside[path] = stamp, entry.stamp
        if not is_last:
            _outlast(self._seen_inside[path] for path in written)
        return FileChanges(tuple(written), tuple(sorted(removed)), tuple(sorted(skipped)))

    def _forget(self, path: str) -> None:
        self._seen_inside.pop(path, None)
        self._seen_outside.pop(path, None)

    def _copy_in(self, outside: Tree, entry: Entry) -> Stamp:
        reader = outside.read(entry.path)
        try:
            return self._inside.write(entry, reader)
        except OSError as exc:
            if exc.errno in _FULL:
                raise self._no_room(entry.stamp.size, is_complete=True) from exc
            raise Conflict(f"{entry.path}: something else is there in the sandbox") from exc
        finally:
            os.close(reader)

    def _copy_out(self, outside: Tree, entry: Entry) -> Stamp | None:
        """Copy a file out. Returns None if it changed meanwhile, or cannot be read or placed."""
        try:
            reader = self._inside.read(entry.path)
        except OSError:
            return None
        try:
            return outside.write(entry, reader)
        except OSError as exc:
            if exc.errno in _FULL:
                raise  # the host's disk
            return None
        finally:
            os.close(reader)

    def _no_room(self, size: int, *, is_complete: bool) -> QuotaExceeded:
        limits = self._limits
        resource, limit = (
            ("bytes", limits.disk_bytes) if is_complete else ("files", limits.max_files)
        )
        requested = size if is_complete else limits.max_files + 1
        hint = "pass fewer files, or raise the limits of tools.sandbox"
        return QuotaExceeded(
            "the sandbox", resource, limit=limit, used=0, requested=requested, hint=hint
        )


def copy_changed(source: Path, target: Path) -> None:
    """Make a directory's files equal to those of another, and leave equal files untouched.

    Both are on the host, so no untrusted code changes them meanwhile.
    """
    with _opened(source) as there, _opened(target) as here:
        wanted, found = there.walk(sys.maxsize).files, here.walk(sys.maxsize).files
        for path in found.keys() - wanted.keys():
            here.remove(path)
        for path, entry in wanted.items():
            if path not in found or not filecmp.cmp(source / path, target / path, shallow=False):
                reader = there.read(path)
                try:
                    here.write(entry, reader)
                finally:
                    os.close(reader)


@contextmanager
def _opened(directory: Path) -> Iterator[Tree]:
    descriptor = os.open(directory, ENTER)
    try:
        yield Tree(descriptor, os.geteuid(), os.getegid())
    finally:
        os.close(descriptor)


def _outlast(stamps: Iterable[Stamp]) -> None:
    """Wait until a further change would get another stamp: file systems use a coarse clock."""
    newest = max((stamp.changed_ns for stamp in stamps), default=0)
    if 0 <= (age_ns := time.time_ns() - newest) < _TICK_NS:
        time.sleep((_TICK_NS - age_ns) / 1e9)
