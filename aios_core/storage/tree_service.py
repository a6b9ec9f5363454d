"""Serves the requests for snapshots of trees of files."""

from __future__ import annotations

from typing import Any

from aios_core.labels import with_all_labels
from aios_core.process import AgentProcess
from aios_core.storage.requests import (
    TreeDelete,
    TreeList,
    TreeRestore,
    TreeSnapshot,
)
from aios_core.storage.tables import Handler, StorageTables, owner_of
from aios_core.syscalls import Request


class TreeService:
    """Saves, restores, lists and deletes snapshots of all files below a path."""

    def __init__(self, tables: StorageTables) -> None:
        self._tables = tables

    def handlers(self) -> dict[type[Request[Any]], Handler]:
        """Return what serves which request."""
        return {
            TreeDelete: self._delete,
            TreeList: self._list,
            TreeRestore: self._restore,
            TreeSnapshot: self._snapshot,
        }

    async def _snapshot(self, process: AgentProcess, request: TreeSnapshot) -> Any:
        owner, stamp = owner_of(process, request), self._tables.stamp(process)
        _, _, trees = await self._tables.open()
        return await self._tables.change(
            owner,
            lambda c: trees.save(
                c, owner, request.path, request.name, stamp.at, labels=stamp.labels
            ),
        )

    async def _restore(self, process: AgentProcess, request: TreeRestore) -> Any:
        owner, stamp = owner_of(process, request), self._tables.stamp(process)
        _, _, trees = await self._tables.open()
        await self._tables.verify(lambda c: trees.blobs_of(c, owner, request.name))
        return await self._tables.change(
            owner, lambda c: trees.restore(c, owner, request.path, request.name, stamp)
        )

    async def _delete(self, process: AgentProcess, request: TreeDelete) -> Any:
        owner = owner_of(process, request)
        _, _, trees = await self._tables.open()
        return await self._tables.change(
            owner, lambda c: trees.forget(c, owner, request.path, request.name)
        )

    async def _list(self, process: AgentProcess, request: TreeList) -> Any:
        owner = owner_of(process, request)
        _, _, trees = await self._tables.open()
        return with_all_labels(
            await self._tables.read(lambda c: trees.listing(c, owner, request.path))
        )
