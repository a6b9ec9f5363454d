"""Large values: content-addressed files, compressed with zstd, sealed if the vault seals.

A blob is named by the SHA-256 of its content (keyed with a secret of the state
directory, if it is encrypted, so that names tell nothing) and is never changed.
Who refers to a blob is counted in the database, in the transaction of the row
that refers; a blob that nobody refers to is removed by `collect`.

    address = blobs.put(data)                 # durable, on a worker thread
    database.write(lambda c: (c.execute("INSERT ..."), blobs.link(c, address)))

Promise: a blob that a committed row links to can be read, whatever was killed when.
So a file is removed only after the commit that made it nobody's: writes share
commits, and one that is not durable yet may never have happened.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw
import zstandard

from aios_core.errors import StateError
from aios_core.state.database import Database
from aios_core.state.full_disk import cause
from aios_core.state.vault import PlainVault, Vault

SCHEMA: Final = (
    """
    CREATE TABLE blobs (
        address TEXT PRIMARY KEY,
        refs INTEGER NOT NULL CHECK (refs >= 0)
    ) WITHOUT ROWID
    """,
)
LEVEL: Final = 3
_PLAIN, _ZSTD = b"\0", b"\1"  # the first byte of a stored blob


class BlobStore:
    """Blobs below a directory, or in a dictionary if that is None. Any thread may call it.

    `_lock` guards the four collections below it; a file is removed only while it is held.
    `_collecting` lets one `collect` run at a time; it is taken before the other.
    """

    def __init__(
        self, directory: Path | None, vault: Vault | None = None, address_key: bytes = b""
    ) -> None:
        self._directory = directory
        self._vault: Vault = vault or PlainVault()
        self._address_key = address_key
        self._in_memory: dict[str, bytes] = {}
        self._collecting = threading.Lock()
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # put and not yet linked; `collect` spares them
        self._writing: Counter[str] = Counter()  # may be there, and not be durable yet
        self._fresh: set[str] = set()  # put in this life; whether the link committed is not known
        self._condemned: set[str] = set()  # nobody's; the files go once that is committed
        if directory is not None:
            make_directory(directory)

    def put(self, data: bytes) -> str:
        """Store a value durably; its address. `link` it, or `release` it, afterwards."""
        address = self._address(data)
        with self._lock:
            self._held[address] += 1
            self._condemned.discard(address)
            if not self._writing[address] and self._has(address):
                return address
            self._fresh.add(address)
            self._writing[address] += 1
        try:
            self._store(address, self._vault.seal(_compressed(data), "blob", address))
        except OSError as exc:
            self.release(address)
            raise StateError(
                f"a blob cannot be written: {cause(exc, self._directory or Path())}"
            ) from exc
        finally:
            with self._lock:
                _take_one(self._writing, address)
        return address

    def get(self, address: str) -> bytes:
        """The value. Raises `StateError` if it is missing or damaged."""
        try:
            if self._directory is None:
                stored = self._in_memory[address]
            else:
                stored = self._path(address).read_bytes()
        except (OSError, KeyError) as exc:
            raise StateError(f"blob {address} cannot be read: {exc}") from exc
        data = _decompressed(self._vault.open(stored, "blob", address), address)
        if self._address(data) != address:
            raise StateError(f"blob {address} is damaged; restore it from a backup")
        return data

    def release(self, address: str) -> None:
        """A value that was put is not going to be linked; `collect` may remove it."""
        with self._lock:
            _take_one(self._held, address)

    # --- in a transaction --------------------------------------------------------------------

    def link(self, connection: apsw.Connection, address: str) -> None:
        """One more row refers to a blob that was put. If the transaction fails, put it again.

        Counts as its `release`, also in a transaction that fails afterwards: so link last.
        """
        connection.execute(
            "INSERT INTO blobs VALUES (?, 1) ON CONFLICT (address) DO UPDATE SET refs = refs + 1",
            (address,),
        )
        self.release(address)

    def link_again(self, connection: apsw.Connection, address: str) -> None:
        """One more row refers to a blob that is linked already."""
        connection.execute("UPDATE blobs SET refs = refs + 1 WHERE address = ?", (address,))
        if not connection.changes():
            raise StateError(f"blob {address} is gone; restore it from a backup")

    def unlink(self, connection: apsw.Connection, address: str) -> None:
        """One row less refers to a blob."""
        connection.execute("UPDATE blobs SET refs = refs - 1 WHERE address = ?", (address,))

    # --- removing ----------------------------------------------------------------------------

    def collect(self, database: Database) -> int:
        """Remove the blobs to which nobody refers; how many. Blocks: not in a transaction.

        The rows go first: after a crash in between, `sweep` finds the files.
        """
        with self._collecting:
            try:
                settled = database.write(self._condemn)
            except BaseException:
                with self._lock:
                    self._condemned.clear()
                raise
            with self._lock:
                removed = sorted(self._condemned)
                self._condemned.clear()
                self._fresh -= settled.union(removed)
                for address in removed:
                    self._remove(address)
        return len(removed)

    def _condemn(self, connection: apsw.Connection) -> set[str]:
        """Take out the rows of what is nobody's; those of the fresh blobs that have a row."""
        rows = connection.execute("SELECT address FROM blobs WHERE refs = 0").fetchall()
        with self._lock:
            dead = {str(row[0]) for row in rows} - set(+self._held)
            fresh = self._fresh - set(+self._held)
            self._condemned.update(dead)
        for address in dead:
            connection.execute("DELETE FROM blobs WHERE address = ?", (address,))
        settled = {address for address in fresh if _has_row(connection, address)}
        for address in fresh - settled:
            # A commit that failed may still be in the log, and come back after a crash with a row
            # that needs the file. One that succeeds overwrites it; so this one has to write.
            connection.execute("INSERT INTO blobs VALUES (?, 0)", (address,))
            connection.execute("DELETE FROM blobs WHERE address = ?", (address,))
        with self._lock:
            self._condemned.update(fresh - settled)
        return settled

    def sweep(self, connection: apsw.Connection) -> None:
        """Remove files that no row knows: left by a crash. Before anything else is put."""
        if self._directory is None:
            return
        known = {row[0] for row in connection.execute("SELECT address FROM blobs WHERE refs > 0")}
        for file in self._directory.glob("*/*"):
            if file.parent.name + file.name not in known:
                file.unlink(missing_ok=True)
        connection.execute("DELETE FROM blobs WHERE refs = 0")

    # --- inside ------------------------------------------------------------------------------

    def _address(self, data: bytes) -> str:
        if self._address_key:
            return hmac.digest(self._address_key, data, "sha256").hex()
        return hashlib.sha256(data).hexdigest()

    def _path(self, address: str) -> Path:
        if self._directory is None:
            raise StateError("blobs in memory have no path")
        return self._directory / address[:2] / address[2:]

    def _store(self, address: str, stored: bytes) -> None:
        if self._directory is None:
            self._in_memory[address] = stored
        else:
            _write(self._path(address), stored)

    def _has(self, address: str) -> bool:
        if self._directory is None:
            return address in self._in_memory
        return self._path(address).is_file()

    def _remove(self, address: str) -> None:
        if self._directory is None:
            self._in_memory.pop(address, None)
        else:
            self._path(address).unlink(missing_ok=True)


def _compressed(data: bytes) -> bytes:
    small = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    return _ZSTD + small if len(small) < len(data) else _PLAIN + data


def _decompressed(stored: bytes, address: str) -> bytes:
    if stored[:1] == _PLAIN:
        return stored[1:]
    try:
        return zstandard.ZstdDecompressor().decompress(stored[1:])
    except zstandard.ZstdError as exc:
        raise StateError(f"blob {address} is damaged; restore it from a backup") from exc


def make_directory(path: Path) -> None:
    """Make a directory that is not there, with those above it, durably."""
    missing = [one for one in (path, *path.parents) if not one.is_dir()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        _sync(one.parent)


def _write(path: Path, stored: bytes) -> None:
    """All of the file or nothing, durable: the file, and its name in the directory."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_name(f".{path.name[:16]}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file:
            file.write(stored)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    for directory in (path.parent, path.parent.parent):
        _sync(directory)


def _sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_one(counter: Counter[str], address: str) -> None:
    counter[address] -= 1
    if counter[address] <= 0:
        del counter[address]


def _has_row(connection: apsw.Connection, address: str) -> bool:
    query = "SELECT 1 FROM blobs WHERE address = ?"
    return connection.execute(query, (address,)).fetchone() is not None
