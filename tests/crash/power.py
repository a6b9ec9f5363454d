"""A disk that loses power: an SQLite VFS in memory, and a real folder with recorded syncs.

What was written and not synced may be there after the cut, or not, or in part and out
of order, down to sectors of 512 bytes; what was synced is there. Without a sync of its
folder, a new file may be missing, and a removed one may be back.

One `Disk` counts the operations of both parts and fails all that follow its cut.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512
_PAST_THE_END = b"\0"


class Disk:
    """Power, and what is left of everything after a cut. `lock` guards all of it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.files: dict[str, SimulatedFile] = {}
        self.folders: list[WatchedFolder] = []
        self._operations_left: int | None = None
        self.lock = threading.RLock()

    def cut_after(self, operations: int) -> None:
        """Power fails when that many more writes, syncs and removals were made."""
        self._operations_left = operations

    @property
    def is_cut(self) -> bool:
        return self._operations_left is not None and self._operations_left <= 0

    def operate(self) -> None:
        """Count an operation. Raises `OSError` without power."""
        with self.lock:
            if self._operations_left is None:
                return
            if self._operations_left <= 0:
                raise OSError(errno.EIO, "no power")
            self._operations_left -= 1

    def restart(self) -> None:
        """Power is back: everything is what it has become."""
        with self.lock:
            self._operations_left = None
            for name, file in tuple(self.files.items()):
                if not file.survive(self.chance):
                    del self.files[name]
            for folder in self.folders:
                folder.survive(self.chance)


@dataclass(slots=True)
class SimulatedFile:
    """A file: its content as read, its content as synced, and the changes since."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytes | None = None  # None: not even its name
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut off there

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        _write(self.cached, offset, data)

    def truncate(self, size: int) -> None:
        self.pending.append((size, None))
        del self.cached[size:]

    def sync(self) -> None:
        self.durable = bytes(self.cached)
        self.pending.clear()

    def survive(self, chance: random.Random) -> bool:
        """Become what the cut left; whether there is a file at all."""
        if self.durable is None and chance.random() < 0.5:
            return False
        left = bytearray(self.durable or b"")
        share = chance.choice((0.0, 0.5, 0.9, 1.0))  # of what was not synced
        for offset, data in self.pending:
            if data is None:
                if chance.random() < share:
                    del left[offset:]
                continue
            for start in range(0, len(data), SECTOR):
                if chance.random() < share:
                    _write(left, offset + start, data[start : start + SECTOR])
        self.cached = left
        self.sync()
        return True


def _write(into: bytearray, offset: int, data: bytes) -> None:
    into.extend(_PAST_THE_END * (offset + len(data) - len(into)))
    into[offset : offset + len(data)] = data


class PowerVFS(apsw.VFS):
    """SQLite's files on a `Disk`. Unregister it at the end."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        self.name = name
        super().__init__(name, "", iVersion=1)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary"
        flags[1] = flags[0]
        file = SimulatedFile() if name is None else self.disk.files.get(path)
        if file is None:
            self._operate()
            file = self.disk.files[path] = SimulatedFile()
        return PowerFile(self, file)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, ARG002
        self._operate()
        self.disk.files.pop(filename, None)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802, ARG002
        return pathname in self.disk.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def _operate(self) -> None:
        try:
            self.disk.operate()
        except OSError as exc:
            raise apsw.IOError("no power") from exc


class PowerFile:
    """An open file of a `PowerVFS`: the methods of `apsw.VFSFile`."""

    def __init__(self, vfs: PowerVFS, file: SimulatedFile) -> None:
        self._vfs = vfs
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.cached[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._vfs._operate()
        self._file.write(offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._vfs._operate()
        self._file.truncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802, ARG002
        self._vfs._operate()
        self._file.sync()

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.cached)

    def xLock(self, level: int) -> None:  # noqa: N802
        """There is one connection."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """There is one connection."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802, ARG002
        return False

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xClose(self) -> None:  # noqa: N802
        """The file stays on the disk."""


class WatchedFolder:
    """A real folder, written by code that uses this object as `os`; it records the syncs."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self._disk = disk
        self._root = root
        self._contents: dict[int, bytes] = {}  # by inode, as last synced
        self._names: dict[int, dict[str, int]] = {}  # of folders, by inode: name -> inode
        disk.folders.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        with self._disk.lock:  # or a slow look would take the place of a later one
            self._disk.operate()
            self._note(Path(f"/proc/self/fd/{descriptor}").resolve())

    def _note(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = {one.name: one.stat().st_ino for one in path.iterdir()}
        else:
            self._contents[inode] = path.read_bytes()

    def survive(self, chance: random.Random) -> None:
        """Make the folder what the cut left of it."""
        if self._root.exists():
            self._survive(self._root, chance)
        self._contents.clear()
        self._names.clear()
        for path in (self._root, *self._root.rglob("*")):  # all of it is durable now
            if path.exists():
                self._note(path)

    def _survive(self, folder: Path, chance: random.Random) -> None:
        durable = self._names.get(folder.stat().st_ino, {})
        here = {one.name: one.stat().st_ino for one in folder.iterdir()}
        for name in here.keys() | durable.keys():
            path = folder / name
            now, synced = here.get(name), durable.get(name)
            if now != synced and chance.random() < 0.5:  # the change of the name is lost
                if now is not None:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if synced is not None and synced in self._contents:
                    path.write_bytes(self._contents[synced])
            elif path.is_dir():
                self._survive(path, chance)
            elif now is not None and self._contents.get(now) != path.read_bytes():
                data = path.read_bytes()
                path.write_bytes(data[: chance.randint(0, len(data))])
