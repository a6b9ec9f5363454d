"""Large values: content-addressed files, compressed with zstd, encrypted if a key is set.

A blob is named by the SHA-256 of its content and never changes. In an encrypted directory
the hash is keyed with a secret, so that names reveal nothing. The database counts the
references to each blob, in the transaction of the row that refers to it; `collect` removes
blobs without references.

    address = blobs.put(data)                 # durable, on a worker thread
    database.write(lambda c: (c.execute("INSERT ..."), blobs.link(c, address)))

Promise: a blob that a committed row links to can be read, even if the process is killed at
any moment. So a file is removed only after the commit that removed its last reference: writes
share commits, and a commit that is not durable yet may be lost. `put` writes the file even if
one exists: that one may be damaged, and a faster write would reveal to its caller that
another agent has the same content.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import apsw
import zstandard

from aios_core.errors import StateError
from aios_core.private_files import make_directory, sync_directory, write_file
from aios_core.state.database import Database
from aios_core.state.disk_full import describe_os_error
from aios_core.state.encryption import Cipher, NullCipher

SCHEMA: Final = (
    """
    CREATE TABLE blobs (
        address TEXT PRIMARY KEY,
        refs INTEGER NOT NULL CHECK (refs >= 0)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE blob_garbage (address TEXT PRIMARY KEY) WITHOUT ROWID;  -- its file may be there
    CREATE TABLE lost_blobs (address TEXT PRIMARY KEY) WITHOUT ROWID  -- missing, and accepted so
    """,
)
LEVEL: Final = 3
_PLAIN, _ZSTD = b"\0", b"\1"  # the first byte of a stored blob
_MAX_VERIFIED: Final = 100_000  # addresses that are remembered as intact


class BlobStore:
    """Blobs below a directory, or in a dictionary if that is None. Any thread may call it.

    `_lock` guards the collections below it; a file is removed only while it is held.
    `_collecting` lets one `collect` run at a time; it is taken before the other.
    """

    def __init__(
        self,
        directory: Path | None,
        cipher: Cipher | None = None,
        address_key: bytes = b"",
        *,
        require_held: Callable[[], None] = lambda: None,
    ) -> None:
        """`require_held` raises `StateError` if the directory was replaced by another."""
        self.directory = directory
        self._cipher: Cipher = cipher or NullCipher()
        self._address_key = address_key
        self._require_held = require_held
        self._in_memory: dict[str, bytes] = {}
        self._collecting = threading.Lock()
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # put and not yet linked; `collect` spares them
        self._fresh: set[str] = set()  # put since the start; their link may not have committed
        self._condemned: set[str] = set()  # unreferenced; the files are removed after the commit
        self._removed: set[str] = set()  # the files are removed, their garbage rows are not
        self._verified: OrderedDict[str, int] = OrderedDict()  # intact since the start: stored size
        if directory is not None:
            make_directory(directory)

    def put(self, data: bytes) -> str:
        """Store a value durably and return its address. Then `link` or `release` it."""
        address = self._address(data)
        with self._lock:
            self._held[address] += 1
            self._condemned.discard(address)
            self._fresh.add(address)
        stored = self._cipher.encrypt(_compressed(data), "blob", address)
        try:
            self._require_held()
            self._store(address, stored)
        except BaseException as exc:
            self.release(address)
            if not isinstance(exc, OSError):
                raise
            raise StateError(
                f"a blob cannot be written: {describe_os_error(exc, self.directory or Path())}"
            ) from exc
        self._remember(address, len(stored))
        return address

    def get(self, address: str) -> bytes:
        """Read a value. Raises `StateError` if it is missing or damaged."""
        try:
            if self.directory is None:
                stored = self._in_memory[address]
            else:
                stored = self._path(address).read_bytes()
        except (OSError, KeyError) as exc:
            raise StateError(f"blob {address} cannot be read: {exc}") from exc
        data = _decompressed(self._cipher.decrypt(stored, "blob", address), address)
        if self._address(data) != address:
            raise StateError(f"blob {address} is damaged; restore it from a backup")
        self._remember(address, len(stored))
        return data

    def verify(self, address: str) -> None:
        """Raise `StateError` unless the value can be read. Checks a content once per kernel."""
        with self._lock:
            expected = self._verified.get(address)
        if expected is None or self._stored_size(address) != expected:
            self.get(address)

    def verify_all(self, addresses: Iterable[str]) -> None:
        """Raise `StateError` unless each of the values can be read."""
        for address in addresses:
            self.verify(address)

    def release(self, address: str) -> None:
        """Give up a value that was put and will not be linked; `collect` may remove it."""
        with self._lock:
            _take_one(self._held, address)

    # --- in a transaction --------------------------------------------------------------------

    def link(self, connection: apsw.Connection, address: str) -> None:
        """Count a reference to a blob that was put. If the transaction fails, put it again.

        This also releases the blob, even if the transaction fails afterwards; so link last.
        """
        connection.execute(
            "INSERT INTO blobs VALUES (?, 1) ON CONFLICT (address) DO UPDATE SET refs = refs + 1",
            (address,),
        )
        self.release(address)

    def relink(
        self, connection: apsw.Connection, address: str, *, is_verified: bool = False
    ) -> None:
        """Count one more reference to a stored blob.

        Raises `StateError` if the blob is damaged or missing, since its new row could not be
        read. `verify` it before, on another thread, so that it is not read here.
        """
        if not is_verified:
            self.verify(address)
        connection.execute("UPDATE blobs SET refs = refs + 1 WHERE address = ?", (address,))
        if not connection.changes():
            raise StateError(f"blob {address} is missing; restore it from a backup")

    def unlink(self, connection: apsw.Connection, address: str) -> None:
        """Remove one reference to a blob."""
        connection.execute("UPDATE blobs SET refs = refs - 1 WHERE address = ?", (address,))

    # --- removing ----------------------------------------------------------------------------

    def collect(self, database: Database) -> int:
        """Remove blobs without references. Returns how many. Blocks; not in a transaction.

        The rows are removed first, and the files noted as garbage; after a crash in between,
        `start_accounts` removes the noted files.
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
                self._removed = set(removed)
        return len(removed)

    def _condemn(self, connection: apsw.Connection) -> set[str]:
        """Delete the rows of unreferenced blobs. Returns the fresh blobs that have a row."""
        rows = connection.execute("SELECT address FROM blobs WHERE refs = 0").fetchall()
        with self._lock:
            held, removed = set(+self._held), frozenset(self._removed)
            dead = {str(row[0]) for row in rows} - held
            fresh = self._fresh - held
        settled = {one for one in fresh if one not in dead and _has_row(connection, one)}
        condemned = dead | (fresh - settled)
        with self._lock:
            self._condemned.update(condemned)
        for address in removed:
            connection.execute("DELETE FROM blob_garbage WHERE address = ?", (address,))
        for address in condemned:
            connection.execute("DELETE FROM blobs WHERE address = ?", (address,))
            # A commit that failed may still be in the log, and come back after a crash with a row
            # that needs the file. One that succeeds overwrites it; so this one has to write.
            connection.execute("INSERT OR REPLACE INTO blob_garbage VALUES (?)", (address,))
        return settled

    # --- inside ------------------------------------------------------------------------------

    def _address(self, data: bytes) -> str:
        if self._address_key:
            return hmac.digest(self._address_key, data, "sha256").hex()
        return hashlib.sha256(data).hexdigest()

    def _path(self, address: str) -> Path:
        if self.directory is None:
            raise StateError("blobs in memory have no path")
        return self.directory / address[:2] / address[2:]

    def _store(self, address: str, stored: bytes) -> None:
        if self.directory is None:
            self._in_memory[address] = stored
            return
        path = self._path(address)
        make_directory(path.parent)
        write_file(path, stored)
        sync_directory(self.directory)

    def _stored_size(self, address: str) -> int:
        if self.directory is None:
            return len(self._in_memory.get(address, b""))
        try:
            return self._path(address).stat().st_size
        except OSError:
            return -1

    def _remember(self, address: str, size: int) -> None:
        """Remember that a blob is intact, with its stored size in bytes."""
        with self._lock:
            self._verified[address] = size
            self._verified.move_to_end(address)
            if len(self._verified) > _MAX_VERIFIED:
                self._verified.popitem(last=False)

    def _remove(self, address: str) -> None:
        self._verified.pop(address, None)
        if self.directory is None:
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


def _take_one(counter: Counter[str], address: str) -> None:
    counter[address] -= 1
    if counter[address] <= 0:
        del counter[address]


def _has_row(connection: apsw.Connection, address: str) -> bool:
    query = "SELECT 1 FROM blobs WHERE address = ?"
    return connection.execute(query, (address,)).fetchone() is not None
