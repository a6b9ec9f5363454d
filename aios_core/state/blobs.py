"""Large values: content-addressed files, compressed with zstd, sealed if the vault seals.

A blob is named by the SHA-256 of its content (keyed with a secret of the state
directory, if it is encrypted, so that names tell nothing) and is never changed.
Who refers to a blob is counted in the database, in the transaction of the row
that refers; a blob that nobody refers to is removed by `collect`.

    address = blobs.put(data)                 # durable, on a worker thread
    database.write(lambda c: (blobs.link(c, address), c.execute("INSERT ...")))

Promise: a blob that a committed row links to can be read, whatever was killed when.
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

    `_lock` guards `_unlinked` and the files that `collect` removes.
    """

    def __init__(
        self, directory: Path | None, vault: Vault | None = None, address_key: bytes = b""
    ) -> None:
        self._directory = directory
        self._vault: Vault = vault or PlainVault()
        self._address_key = address_key
        self._in_memory: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._unlinked: Counter[str] = Counter()  # put and not yet linked; `collect` spares them
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store a value durably; its address. `link` it, or `release` it, afterwards."""
        address = self._address(data)
        with self._lock:
            self._unlinked[address] += 1
            if self._has(address):
                return address
        stored = self._vault.seal(_compressed(data), "blob", address)
        if self._directory is None:
            self._in_memory[address] = stored
        else:
            try:
                _write(self._path(address), stored)
            except OSError as exc:
                self.release(address)
                raise StateError(f"a blob cannot be written: {exc}") from exc
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
        """A value that was put is not going to be linked."""
        with self._lock:
            self._unlinked[address] -= 1
            if self._unlinked[address] <= 0:
                del self._unlinked[address]

    # --- in a transaction --------------------------------------------------------------------

    def link(self, connection: apsw.Connection, address: str) -> None:
        """One more row refers to a blob that was put. If the transaction fails, put it again."""
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

    def collect(self, connection: apsw.Connection) -> int:
        """Remove the blobs to which nobody refers; how many. In a write of its own.

        The rows go first: after a crash in between, `sweep` finds the files.
        """
        rows = connection.execute("SELECT address FROM blobs WHERE refs = 0").fetchall()
        removed = 0
        for address in (str(row[0]) for row in rows):
            with self._lock:
                if address in self._unlinked:
                    continue
                connection.execute("DELETE FROM blobs WHERE address = ?", (address,))
                self._remove(address)
                removed += 1
        return removed

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
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
