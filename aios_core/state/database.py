"""One SQLite file with a single writer, group commit, and concurrent readers.

WAL mode with `synchronous=FULL`: an acknowledged write survives kill -9 and power loss.
Waiting writes share one commit. Each runs in its own savepoint, so that one that raises does
not undo the others. A `CommitHook` may add its own writes to each commit.

Only the writer thread uses the writing connection. Each reading thread has its own
connection, which sees committed data. In memory, or with another VFS (the power-cut tests),
there is one connection, and the writer thread reads too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import apsw

from aios_core.errors import KernelClosed, StateError
from aios_core.private_files import make_file
from aios_core.state.disk_full import disk_full_hint

T = TypeVar("T")

Connection = apsw.Connection
MAX_BATCH: Final = 512  # writes that share a commit
WAYS_OUT: Final = (
    "restore it from a backup, or run `aios state accept`, which sets it aside and starts a new one"
)


class CommitHook(Protocol):
    """Adds its own writes to each commit. Called on the writer's thread."""

    def before_commit(self, connection: Connection) -> None:
        """Write before the other work of a transaction. Raising rolls the transaction back."""

    def after_commit(self, *, is_durable: bool) -> None:
        """Receive whether the writes of `before_commit` are durable, before any caller does."""


@dataclass(slots=True)
class _Work:
    function: Callable[[Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    is_write: bool = True


_Outcome = tuple[Future[Any], Any, BaseException | None]


class Database:
    """An open SQLite database: durable writes, consistent reads, from any thread.

    The constructor opens the file and blocks. With `path=None` the database is in memory.
    Raises `StateError` if the file is damaged or cannot be opened.
    """

    def __init__(self, path: Path | None, *, vfs: str | None = None, num_readers: int = 2) -> None:
        self.path = path
        self.commit_hook: CommitHook | None = None
        self.require_held: Callable[[], None] = _nothing  # raises `StateError`: do not write
        self._vfs = vfs
        self._is_alone = path is None or vfs is not None
        self._writer = self._connect()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self.is_closed = False
        self._closing = threading.Lock()  # guards is_closed against late submits
        self._local = threading.local()
        self._reading: list[Connection] = []
        self._readers = (
            None if self._is_alone else ThreadPoolExecutor(num_readers, "aios-state-read")
        )
        self._thread = threading.Thread(target=self._serve, name="aios-state-write", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Database {self.path or 'in memory'}>"

    # --- use ---------------------------------------------------------------------------------

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """Run `work` on the writer thread, in a transaction.

        The future resolves once the write is durable. If `work` raises, its changes are rolled
        back and the future fails.
        """
        return self._put(_Work(work))

    def write(self, work: Callable[[Connection], T]) -> T:
        """Write and wait until it is durable. Blocks: not on an event loop."""
        return self.submit(work).result()

    async def awrite(self, work: Callable[[Connection], T]) -> T:
        """Write and await that it is durable. A cancelled await does not undo the write."""
        return await asyncio.wrap_future(self.submit(work))

    def submit_read(self, work: Callable[[Connection], T]) -> Future[T]:
        """Run `work` on a reader thread; it sees committed data."""
        if self._readers is None:
            return self._put(_Work(work, is_write=False))
        try:
            return self._readers.submit(self._read_here, work)
        except RuntimeError as exc:
            raise KernelClosed("the state directory is closed") from exc

    def read(self, work: Callable[[Connection], T]) -> T:
        """Read and wait for the result. Blocks: not on an event loop."""
        return self.submit_read(work).result()

    async def aread(self, work: Callable[[Connection], T]) -> T:
        """Read without blocking the event loop."""
        return await asyncio.wrap_future(self.submit_read(work))

    def migrate(self, component: str, scripts: Sequence[str]) -> None:
        """Upgrade a component's tables: script N leads to version N. Blocks.

        Raises `StateError` if the tables are newer than this program.
        """
        self.write(lambda connection: _migrate(connection, component, scripts))

    def close(self) -> None:
        """Finish what was submitted, and close. Idempotent."""
        with self._closing:
            if self.is_closed:
                return
            self.is_closed = True
            self._work.put(None)
        self._thread.join()
        if self._readers is not None:
            self._readers.shutdown()
        is_held = self._is_held()
        for connection in (*self._reading, self._writer):
            with suppress(apsw.Error):  # a last checkpoint failed; what was answered is durable
                if not is_held:  # the path now leads to another directory: leave its log alone
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()

    # --- inside ------------------------------------------------------------------------------

    def _is_held(self) -> bool:
        try:
            self.require_held()
        except StateError:
            return False
        return True

    def _put(self, work: _Work) -> Future[Any]:
        with self._closing:
            if self.is_closed:
                raise KernelClosed("the state directory is closed")
            self._work.put(work)
        return work.future

    def _connect(self) -> Connection:
        name = ":memory:" if self.path is None else str(self.path)
        try:
            if not self._is_alone and self.path is not None:
                make_file(self.path)  # SQLite gives its other files the mode of this one
            connection = Connection(name, vfs=self._vfs)
            connection.set_busy_timeout(5_000)
            if self._vfs is not None:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory there
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except (apsw.Error, OSError) as exc:
            raise _state_error(exc, self.path) from exc
        return connection

    def _read_here(self, work: Callable[[Connection], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.require_held()
            connection = self._local.connection = self._connect()
            connection.execute("PRAGMA query_only=ON")
            self._reading.append(connection)
        try:
            connection.execute("BEGIN")  # one snapshot for all that `work` reads
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")
        except apsw.Error as exc:
            raise _state_error(exc, self.path) from exc

    def _serve(self) -> None:
        is_open = True
        while is_open:
            batch = [self._work.get()]
            while len(batch) < MAX_BATCH:
                try:
                    batch.append(self._work.get_nowait())
                except queue.Empty:
                    break
            works = [one for one in batch if one is not None]
            is_open = len(works) == len(batch)
            self._commit([one for one in works if one.future.set_running_or_notify_cancel()])

    def _commit(self, works: list[_Work]) -> None:
        """Run waiting work in one transaction, and resolve the futures once it is durable."""
        if not works:
            return
        try:
            if any(work.is_write for work in works):
                outcomes = self._transact(works)
            else:
                outcomes = [self._run(work) for work in works]
        except BaseException as exc:  # noqa: BLE001 - each waiting caller gets the error
            error = _lost(exc, self.path)
            for work in works:
                work.future.set_exception(error)
            return
        for future, value, failure in outcomes:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)

    def _transact(self, works: list[_Work]) -> list[_Outcome]:
        """Return the outcomes of durable work. Raises the error that rolled all of it back."""
        commit_hook = self.commit_hook
        is_durable = False
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            if commit_hook is not None:
                commit_hook.before_commit(self._writer)
            outcomes = [self._run(work) for work in works]
            self.require_held()
            self._writer.execute("COMMIT")
            is_durable = True
        finally:
            if not is_durable:
                with suppress(apsw.Error):
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
            if commit_hook is not None:
                commit_hook.after_commit(is_durable=is_durable)
        return outcomes

    def _run(self, work: _Work) -> _Outcome:
        if not work.is_write:
            try:
                return work.future, work.function(self._writer), None
            except BaseException as exc:  # noqa: BLE001 - it is the caller's
                return work.future, None, _translated(exc, self.path)
        self._writer.execute("SAVEPOINT work")
        try:
            value = work.function(self._writer)
        except BaseException as exc:
            if not self._writer.in_transaction:
                raise  # the whole transaction was lost (a full disk)
            self._writer.execute("ROLLBACK TO work")
            self._writer.execute("RELEASE work")
            return work.future, None, _translated(exc, self.path)
        self._writer.execute("RELEASE work")
        return work.future, value, None


def _migrate(connection: Connection, component: str, scripts: Sequence[str]) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS components (name TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
    row = connection.execute(
        "SELECT version FROM components WHERE name = ?", (component,)
    ).fetchone()
    version = int(row[0]) if row else 0
    if version > len(scripts):
        raise StateError(
            f"the state of {component!r} has version {version}; this program knows versions up to "
            f"{len(scripts)}. Use a newer AIOS, or another state.directory"
        )
    for script in scripts[version:]:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(
        "INSERT OR REPLACE INTO components VALUES (?, ?)",
        (component, len(scripts)),
    )


def _translated(exc: BaseException, path: Path | None) -> BaseException:
    if not isinstance(exc, apsw.Error):
        return exc
    error = _state_error(exc, path)
    error.__cause__ = exc
    return error


def _lost(exc: BaseException, path: Path | None) -> StateError:
    """Build the error for every caller of a commit that failed."""
    if isinstance(exc, apsw.Error):
        return _state_error(exc, path)
    if isinstance(exc, StateError):
        return exc
    return StateError(f"the state database {path}: another write in the same commit failed it")


def _nothing() -> None:
    """Check nothing: this database is not in a directory that could be replaced."""


def _state_error(exc: apsw.Error | OSError, path: Path | None) -> StateError:
    where = f"the state database {path}" if path else "the state database in memory"
    if isinstance(exc, apsw.CorruptError | apsw.NotADBError):
        return StateError(f"{where} is damaged ({exc}); {WAYS_OUT}")
    if isinstance(exc, apsw.FullError):
        advice = f". {disk_full_hint(path.parent)}" if path else ""
        return StateError(f"{where}: the disk is full; nothing of this request was stored{advice}")
    return StateError(f"{where}: {exc}")
