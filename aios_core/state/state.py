"""One state directory, opened by one kernel at a time.

    directory/
      lock          held while a kernel has it open
      state.db      SQLite: everything small (`Database`)
      blobs/        everything large (`BlobStore`)

`StateOpener` opens it when the first request needs it, off the kernel's loop: a
kernel whose agents only talk to models never touches the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from aios_core.errors import KernelClosed, StateError
from aios_core.state.blobs import SCHEMA, BlobStore, make_directory
from aios_core.state.database import Connection, Database
from aios_core.state.vault import Vault, vault_of

T = TypeVar("T")

MEMORY: Final = ":memory:"
_META: Final = ("CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",)
_KEY_CHECK: Final = b"this state directory opens with this key"


class State:
    """See the module. Made by `open`; its methods may be called from any thread."""

    def __init__(
        self, directory: Path | None, database: Database, blobs: BlobStore, vault: Vault, lock: int
    ) -> None:
        self.directory = directory
        self.database = database
        self.blobs = blobs
        self.vault = vault
        self._lock = lock

    def __repr__(self) -> str:
        return f"<State {self.directory or MEMORY}>"

    @classmethod
    def open(
        cls, directory: str | Path, *, key: bytes | None = None, vfs: str | None = None
    ) -> Self:
        """Open a directory, made if it is not there. Blocks: not for an event loop.

        Args:
            directory: where; ":memory:" keeps everything in memory.
            key: 32 bytes to encrypt values with; None: they are stored as they are.
            vfs: the SQLite VFS to use, for tests.

        Raises:
            StateError: another kernel has it open; it is damaged, newer than this
                program, or sealed with another key, or cannot be written.
        """
        vault = vault_of(key)
        if str(directory) == MEMORY:
            return cls._on(None, vault, -1, vfs)
        path = Path(directory).expanduser().absolute()
        try:
            make_directory(path)
            lock = _lock(path)
        except OSError as exc:
            raise StateError(f"the state directory {path} cannot be used: {exc}") from exc
        try:
            return cls._on(path, vault, lock, vfs)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _on(cls, path: Path | None, vault: Vault, lock: int, vfs: str | None) -> Self:
        database = Database(path / "state.db" if path else None, vfs=vfs)
        try:
            database.migrate("state", _META)
            database.migrate("blobs", SCHEMA)
            address_key = database.write(lambda connection: _unlock(connection, vault))
            if path is not None:
                _require_intact(database)
            blobs = BlobStore(path / "blobs" if path else None, vault, address_key)
            database.write(blobs.sweep)
        except BaseException:
            database.close()
            raise
        return cls(path, database, blobs, vault, lock)

    def close(self) -> None:
        """Finish writing and let go of the directory. Idempotent. Blocks."""
        try:
            if self._lock >= 0 and not self.database.is_closed:
                with suppress(StateError):  # without the mark, the next start looks it over
                    self.database.write(lambda connection: _set(connection, "is_clean", b"1"))
        finally:
            self.database.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


class StateOpener:
    """The state of a kernel, opened at first use. Belongs to the kernel's loop.

    Migrations are run when it opens, and then what `on_open` was given: each manager
    adds its own before that.
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
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    def add_migrations(self, component: str, scripts: tuple[str, ...]) -> None:
        """Tables that must be there when the state opens; see `Database.migrate`."""
        self._migrations[component] = scripts

    def on_open(self, begin: Callable[[State], None]) -> None:
        """Have `begin` called on the opening thread, before anybody gets the state.

        It may raise `StateError`: then the state does not open.
        """
        self._on_open.append(begin)

    async def opened(self) -> State:
        """The state. Raises `StateError`; the next call tries again."""
        if self._is_closed:
            raise KernelClosed("the kernel is closed")
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except StateError:
            if self._opening is opening:
                self._opening = None
            raise

    async def close(self) -> None:
        """Close it, if it was opened. Idempotent."""
        self._is_closed = True
        if self._opening is None:
            return
        opening, self._opening = self._opening, None
        try:
            state = await opening
        except StateError:
            return
        await asyncio.to_thread(state.close)

    def _open(self) -> State:
        state = State.open(self.directory, key=self._read_key())
        try:
            for component, scripts in self._migrations.items():
                state.database.migrate(component, scripts)
            for begin in self._on_open:
                begin(state)
        except BaseException:
            state.close()
            raise
        return state


def _lock(path: Path) -> int:
    """Hold the directory. The system lets go of it when the process dies, however it dies."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        who = f"another kernel (process {holder})" if holder else "another kernel"
        raise StateError(
            f"the state directory {path} is used by {who}; end that one, or give this one a "
            "state.directory of its own (AIOS_STATE__DIRECTORY)"
        ) from exc
    told = f"{os.getpid()}\n".encode()
    os.pwrite(descriptor, told, 0)
    os.truncate(descriptor, len(told))
    return descriptor


def _unlock(connection: Connection, vault: Vault) -> bytes:
    """Check that the vault is the one that the directory was made with; the key of addresses."""
    check = _get(connection, "key_check")
    if check is None:
        _set(connection, "key_check", vault.seal(_KEY_CHECK, "meta", "key_check"))
        secret = secrets.token_bytes(32) if vault.is_sealing else b""
        _set(connection, "address_key", vault.seal(secret, "meta", "address_key"))
    elif not vault.is_sealing and check != _KEY_CHECK:
        raise StateError("the state directory is encrypted; set state.encryption_key")
    elif vault.is_sealing and check == _KEY_CHECK:
        raise StateError(
            "the state directory is not encrypted and state.encryption_key is set; unset it, or "
            "begin with a new state.directory"
        )
    else:
        try:
            vault.open(check, "meta", "key_check")
        except StateError as exc:
            raise StateError("state.encryption_key is not the key of this state directory") from exc
    return vault.open(_get(connection, "address_key") or b"", "meta", "address_key")


def _require_intact(database: Database) -> None:
    """Look the database over if the last kernel did not close it. Marks it as in use."""
    if database.read(lambda connection: _get(connection, "is_clean")) == b"0":
        found = database.read(lambda c: c.execute("PRAGMA quick_check(1)").fetchone())
        if found and found[0] != "ok":
            raise StateError(
                f"the state database {database.path} is damaged ({found[0]}); restore it from a "
                "backup, or move it away to begin anew"
            )
    database.write(lambda connection: _set(connection, "is_clean", b"0"))


def _get(connection: Connection, key: str) -> bytes | None:
    row: Any = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return bytes(row[0]) if row else None


def _set(connection: Connection, key: str, value: bytes) -> None:
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )
