"""One state directory, opened by one kernel at a time.

    directory/
      lock          held while a kernel has it open (`DirectoryLock`)
      state.db      SQLite: everything small (`Database`)
      blobs/        everything large (`BlobStore`)
      unaccounted/  blobs without a row, found at a start (`blob_accounts`)

Only its user can access it: files 0600, directories 0700. A directory with something missing
is refused (`completeness`), and one that is replaced while it is open is not written to.

`StateOpener` opens the directory when the first request needs it, off the kernel's loop. A
kernel with agents that only call models never touches the disk.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from aios_core.errors import KernelClosed, KernelError, StateError
from aios_core.private_files import make_directory
from aios_core.state.blob_accounts import start_accounts
from aios_core.state.blobs import SCHEMA, BlobStore
from aios_core.state.completeness import (
    BLOBS,
    DATABASE,
    LOG,
    DatabaseFiles,
    refuse_to_begin,
    require_database,
    require_same,
)
from aios_core.state.database import WAYS_OUT, Connection, Database
from aios_core.state.directory_lock import DirectoryLock, Voucher
from aios_core.state.directory_permissions import tighten_directory
from aios_core.state.encryption import Cipher, cipher_for
from aios_core.wait_reason import doing

T = TypeVar("T")

MEMORY: Final = ":memory:"
_META: Final = ("CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",)
_KEY_CHECK: Final = b"this state directory opens with this key"


class State:
    """An open state directory, made by `open`. Its methods may be called from any thread."""

    def __init__(
        self,
        directory: Path | None,
        database: Database,
        blobs: BlobStore,
        cipher: Cipher,
        lock: DirectoryLock | None,
    ) -> None:
        self.directory = directory
        self.database = database
        self.blobs = blobs
        self.cipher = cipher
        self._lock = lock

    def __repr__(self) -> str:
        return f"<State {self.directory or MEMORY}>"

    @classmethod
    def open(
        cls, directory: str | Path, *, key: bytes | None = None, vfs: str | None = None
    ) -> Self:
        """Open a directory, and create it if it does not exist. Blocks: not on an event loop.

        Args:
            directory: where; ":memory:" keeps everything in memory.
            key: 32 bytes to encrypt values with; None: they are stored unencrypted.
            vfs: the SQLite VFS to use, for tests.

        Raises:
            StateError: another kernel has it open; something is missing from it; it is
                damaged, newer than this program, encrypted with another key, or cannot be
                written.
        """
        cipher = cipher_for(key)
        if str(directory) == MEMORY:
            return cls._on(None, cipher, None, DatabaseFiles(-1, 0, 0), vfs)
        path = Path(directory).expanduser().absolute()
        try:
            make_directory(path)
            tighten_directory(path)
            lock = DirectoryLock.acquire(path)
        except OSError as exc:
            raise StateError(f"the state directory {path} cannot be used: {exc}") from exc
        try:
            return cls._on(path, cipher, lock, _look(path, lock, vfs), vfs)
        except OSError as exc:
            lock.release()
            raise StateError(f"the state directory {path} cannot be used: {exc}") from exc
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _on(
        cls,
        path: Path | None,
        cipher: Cipher,
        lock: DirectoryLock | None,
        found: DatabaseFiles,
        vfs: str | None,
    ) -> Self:
        database = Database(path / DATABASE if path else None, vfs=vfs)
        try:
            if path is not None and lock is not None and vfs is None and _is_new(database):
                refuse_to_begin(path, found, lock.voucher)
            database.migrate("state", _META)
            database.migrate("blobs", SCHEMA)
            address_key = database.write(lambda connection: _unlock(connection, cipher))
            if path is not None and lock is not None:
                _begin_life(path, database, lock, found)
            blobs = BlobStore(
                path / BLOBS if path else None,
                cipher,
                address_key,
                require_held=lock.require_held if lock else lambda: None,
            )
            database.write(lambda connection: start_accounts(connection, blobs))
        except BaseException:
            database.close()
            raise
        return cls(path, database, blobs, cipher, lock)

    def require_held(self) -> None:
        """Raise `StateError` if the directory was replaced while it was open."""
        if self._lock is not None:
            self._lock.require_held()

    def close(self) -> None:
        """Finish writing and release the directory. Idempotent. Blocks."""
        lock = self._lock
        try:
            if lock is not None and not self.database.is_closed:
                with suppress(StateError):  # without the mark, the next start checks the database
                    self.database.write(lambda connection: _set(connection, "is_clean", b"1"))
        finally:
            self.database.close()
            if lock is not None:
                self._lock = None
                lock.vouch_closed()
                lock.release()


class StateOpener:
    """Opens the state of a kernel at first use. Belongs to the kernel's loop.

    When the state opens, it runs the migrations and then the callbacks of `on_open`, which
    each manager has registered before.
    """

    def __init__(self, directory: str | Path, read_key: Callable[[], bytes | None]) -> None:
        self.directory = directory
        self._read_key = read_key
        self._migrations: dict[str, tuple[str, ...]] = {}
        self._on_open: list[Callable[[State], None]] = []
        self._opening: asyncio.Task[State] | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether the state was opened, and may be had without waiting."""
        task = self._opening
        return task is not None and task.done() and not _has_failed(task)

    def add_migrations(self, component: str, scripts: tuple[str, ...]) -> None:
        """Register tables that must exist once the state is open; see `Database.migrate`."""
        self._migrations[component] = scripts

    def on_open(self, begin: Callable[[State], None]) -> None:
        """Register a callback for the opening thread, called before any caller gets the state.

        It may raise `StateError`: then the state does not open.
        """
        self._on_open.append(begin)

    async def open(self) -> State:
        """Await the open state; a call after a failure tries again.

        Raises:
            StateError: the directory cannot be opened.
            ConfigError: the encryption key cannot be read.
        """
        if self._is_closed:
            raise KernelClosed("the kernel is closed")
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        opening = self._opening
        try:
            if opening.done():
                return opening.result()
            with doing("waiting for the state directory to be opened"):
                return await asyncio.shield(opening)
        finally:
            if self._opening is opening and _has_failed(opening):
                self._opening = None

    async def close(self) -> None:
        """Close the state if it was opened. Idempotent."""
        self._is_closed = True
        if self._opening is None:
            return
        opening, self._opening = self._opening, None
        await asyncio.wait([opening])
        if not _has_failed(opening):
            await asyncio.to_thread(opening.result().close)

    def _open(self) -> State:
        try:
            state = State.open(self.directory, key=self._read_key())
        except (KernelError, RecursionError):
            raise
        except Exception as exc:
            raise StateError(f"the state directory {self.directory} cannot be used: {exc}") from exc
        try:
            for component, scripts in self._migrations.items():
                state.database.migrate(component, scripts)
            for begin in self._on_open:
                begin(state)
        except BaseException:
            state.close()
            raise
        return state


def _has_failed(opening: asyncio.Task[State]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


def _look(path: Path, lock: DirectoryLock, vfs: str | None) -> DatabaseFiles:
    """Return the database files found. Raises `StateError` if something is missing."""
    if vfs is not None:
        return DatabaseFiles(0, 1, 0)
    return require_database(path, lock.voucher)


def _is_new(database: Database) -> bool:
    query = "SELECT count(*) FROM sqlite_schema WHERE name = 'meta'"
    return database.read(lambda connection: connection.execute(query).fetchone()) == (0,)


def _begin_life(path: Path, database: Database, lock: DirectoryLock, found: DatabaseFiles) -> None:
    """Require the right, undamaged database, and record that it is opened once more."""
    last = database.read(_last_life)
    require_same(path, found, lock.voucher, last)
    if last.is_open and last.life:
        _require_intact(database)
    this = Voucher(last.state_id, last.life + 1)
    database.write(lambda connection: _mark(connection, this))
    lock.vouch(this)
    lock.watch(file for file in (path, path / DATABASE, path / LOG))
    database.require_held = lock.require_held


def _last_life(connection: Connection) -> Voucher:
    """Return what the database records of its last opening; life 0 if there was none."""
    state_id = _get(connection, "state_id") or secrets.token_bytes(16)
    return Voucher(
        state_id.hex(),
        int(_get(connection, "life") or b"0"),
        is_open=_get(connection, "is_clean") == b"0",
    )


def _mark(connection: Connection, life: Voucher) -> None:
    """Note that the database is in use."""
    _set(connection, "state_id", bytes.fromhex(life.state_id))
    _set(connection, "life", str(life.life).encode())
    _set(connection, "is_clean", b"0")


def _unlock(connection: Connection, cipher: Cipher) -> bytes:
    """Check the encryption key of the directory. Returns the key of blob addresses."""
    check = _get(connection, "key_check")
    if check is None:
        _set(connection, "key_check", cipher.encrypt(_KEY_CHECK, "meta", "key_check"))
        secret = secrets.token_bytes(32) if cipher.is_encrypting else b""
        _set(connection, "address_key", cipher.encrypt(secret, "meta", "address_key"))
    elif not cipher.is_encrypting and check != _KEY_CHECK:
        raise StateError("the state directory is encrypted; set state.encryption_key")
    elif cipher.is_encrypting and check == _KEY_CHECK:
        raise StateError(
            "the state directory is not encrypted and state.encryption_key is set; unset it, or "
            "begin with a new state.directory"
        )
    else:
        try:
            cipher.decrypt(check, "meta", "key_check")
        except StateError as exc:
            raise StateError("state.encryption_key is not the key of this state directory") from exc
    return cipher.decrypt(_get(connection, "address_key") or b"", "meta", "address_key")


def _require_intact(database: Database) -> None:
    """Check the database for damage, since the last kernel did not close it."""
    found = database.read(lambda c: c.execute("PRAGMA quick_check(1)").fetchone())
    if found and found[0] != "ok":
        raise StateError(f"the state database {database.path} is damaged ({found[0]}); {WAYS_OUT}")


def _get(connection: Connection, key: str) -> bytes | None:
    row: Any = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return bytes(row[0]) if row else None


def _set(connection: Connection, key: str, value: bytes) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )
