"""The open tables of files and trees, and how they are read and changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from aios_core.config import StorageConfig
from aios_core.process import AgentProcess
from aios_core.state import Connection, State, StateOpener
from aios_core.storage.background import BackgroundTasks
from aios_core.storage.change_notifier import ChangeNotifier
from aios_core.storage.files import FileTable
from aios_core.storage.records import Stamp
from aios_core.storage.schema import COMPONENT, SCHEMA
from aios_core.storage.semantic_index import SemanticIndex
from aios_core.storage.tree_snapshots import TreeTable

T = TypeVar("T")
Handler = Callable[[AgentProcess, Any], Awaitable[Any]]


class StorageTables:
    """The tables of files and trees: opened by the first request, read and changed on threads.

    Args:
        state: opens the state directory.
        config: limits and quotas.
        background: finishes the changes in flight.
        notifier: notified of each committed change.
        index: notified too, if there is one.
        now: returns seconds since 1970.
    """

    def __init__(
        self,
        state: StateOpener,
        config: StorageConfig,
        background: BackgroundTasks,
        notifier: ChangeNotifier,
        *,
        index: SemanticIndex | None,
        now: Callable[[], float],
    ) -> None:
        state.add_migrations(COMPONENT, SCHEMA)
        self._state = state
        self._config = config
        self._background = background
        self._notifier = notifier
        self._index = index
        self._now = now
        self._opened: tuple[State, FileTable, TreeTable] | None = None

    async def open(self) -> tuple[State, FileTable, TreeTable]:
        """Return the open state and its tables."""
        state = await self._state.open()
        if self._opened is None or self._opened[0] is not state:
            table = FileTable(state.cipher, state.blobs, self._config)
            self._opened = (state, table, TreeTable(table, self._config.max_snapshots))
        return self._opened

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Read from the database, on one of its threads."""
        state, _, _ = await self.open()
        return await state.database.aread(work)

    async def verify(self, find: Callable[[Connection], Sequence[str]]) -> None:
        """Verify blobs to which new rows will refer, off the database's writing thread."""
        state, _, _ = await self.open()
        if blobs := await self.read(find):
            await self._background.run_on_thread(partial(state.blobs.verify_all, blobs))

    def stamp(self, process: AgentProcess) -> Stamp:
        """Return who makes a change now, with its labels."""
        return Stamp(process.identity, self._now(), frozenset(process.labels))

    async def change(self, owner: str, work: Callable[[Connection], T]) -> T:
        """Commit a change and publish it, even if its caller is cancelled."""
        return await self._background.run_shielded(self.commit(owner, work))

    async def commit(self, owner: str, work: Callable[[Connection], T]) -> T:
        """Commit a change, then notify watchers and the index."""
        state, table, _ = await self.open()
        done, seq = await state.database.awrite(lambda c: (work(c), table.last_change(c, owner)))
        self._publish(owner, seq)
        return done

    async def announce(self, owner: str) -> None:
        """Notify watchers and the index of an owner's last change."""
        _, table, _ = await self.open()
        self._publish(owner, await self.read(lambda c: table.last_change(c, owner)))

    def _publish(self, owner: str, seq: int) -> None:
        self._notifier.notify(owner)
        if self._index is not None:
            self._index.notify(seq)


def owner_of(process: AgentProcess, request: Any) -> str:
    """Return the owner of the files: the caller, unless the request names another agent."""
    return str(request.owner or process.identity)
