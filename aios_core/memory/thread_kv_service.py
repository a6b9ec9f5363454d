"""Serve the requests for conversations and key-value namespaces, from the database alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aios_core.labels import labels_of_all, with_all_labels, with_labels
from aios_core.memory.block_service import LARGE
from aios_core.memory.kv_requests import (
    KeyValueClear,
    KeyValueGet,
    KeyValueList,
    KeyValueNamespaces,
    KeyValuePut,
    KeyValueSweep,
    KeyValueTouch,
)
from aios_core.memory.quotas import QuotaOwner
from aios_core.memory.records import Name
from aios_core.memory.tables import LazyTables
from aios_core.memory.thread_requests import (
    ThreadAppend,
    ThreadArchive,
    ThreadClear,
    ThreadCount,
    ThreadList,
    ThreadRead,
    ThreadRemove,
    ThreadReplace,
)
from aios_core.memory.threads import ThreadTable
from aios_core.process import AgentProcess
from aios_core.state import Connection
from aios_core.syscalls import Request


class ThreadService:
    """Serves the requests for conversations."""

    def __init__(self, tables: LazyTables) -> None:
        self._tables = tables

    def handlers(self) -> Mapping[type[Request[Any]], Callable[..., Any]]:
        """Map each request type to its handler."""
        return {
            ThreadAppend: self._append,
            ThreadReplace: self._replace,
            ThreadRead: self._read,
            ThreadRemove: self._remove,
            ThreadArchive: self._archive,
            ThreadCount: self._count,
            ThreadClear: self._clear,
            ThreadList: self._list,
        }

    async def _append(self, process: AgentProcess, request: ThreadAppend) -> tuple[int, ...]:
        return await self._put_messages(process, request, ThreadTable.append)

    async def _replace(self, process: AgentProcess, request: ThreadReplace) -> tuple[int, ...]:
        return await self._put_messages(process, request, ThreadTable.replace)

    async def _put_messages(
        self,
        process: AgentProcess,
        request: ThreadAppend | ThreadReplace,
        put: Callable[..., tuple[int, ...]],
    ) -> tuple[int, ...]:
        quota_owner, labels = QuotaOwner.of(process, request.owner), frozenset(process.labels)
        tables = await self._tables.open()
        return await tables.state.database.awrite(
            lambda connection: put(
                tables.threads, connection, quota_owner, request.thread, request.contents, labels
            )
        )

    async def _read(self, process: AgentProcess, request: ThreadRead) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        entries = await tables.state.database.aread(
            lambda c: tables.threads.chosen(c, owner, request.thread, request.chosen)
        )
        return with_all_labels(entries)

    async def _remove(self, process: AgentProcess, request: ThreadRemove) -> Any:
        quota_owner, tables = QuotaOwner.of(process, request.owner), await self._tables.open()
        entries = await tables.state.database.awrite(
            lambda c: tables.threads.remove(c, quota_owner, request.thread, request.chosen)
        )
        return with_all_labels(entries)

    async def _archive(self, process: AgentProcess, request: ThreadArchive) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        entries = await tables.state.database.awrite(
            lambda c: tables.threads.archive(c, owner, request.thread, request.chosen)
        )
        return with_all_labels(entries)

    async def _count(self, process: AgentProcess, request: ThreadCount) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        number, labels = await tables.state.database.aread(
            lambda c: tables.threads.count(c, owner, request.thread, request.status)
        )
        return with_labels(number, labels)

    async def _clear(self, process: AgentProcess, request: ThreadClear) -> None:
        quota_owner, tables = QuotaOwner.of(process, request.owner), await self._tables.open()
        await tables.state.database.awrite(
            lambda c: tables.threads.clear(c, quota_owner, request.thread)
        )

    async def _list(self, process: AgentProcess, request: ThreadList) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        names = await tables.state.database.aread(
            lambda c: tables.threads.names(c, owner, request.prefix)
        )
        return _texts_of(names)


class KeyValueService:
    """Serves the requests for key-value namespaces."""

    def __init__(self, tables: LazyTables) -> None:
        self._tables = tables

    def handlers(self) -> Mapping[type[Request[Any]], Callable[..., Any]]:
        """Map each request type to its handler."""
        return {
            KeyValueGet: self._get,
            KeyValuePut: self._put,
            KeyValueList: self._list,
            KeyValueClear: self._clear,
            KeyValueTouch: self._touch,
            KeyValueSweep: self._sweep,
            KeyValueNamespaces: self._namespaces,
        }

    async def _get(self, process: AgentProcess, request: KeyValueGet) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        entries = await tables.state.database.aread(
            lambda c: tables.kv.get(c, owner, request.namespace, request.keys)
        )
        # The caller named the keys itself, so the labels of the keys reveal nothing new.
        values = (entry.labels for entry in entries)
        return with_labels(entries, frozenset[str]().union(*values))

    async def _put(self, process: AgentProcess, request: KeyValuePut) -> None:
        quota_owner, labels = QuotaOwner.of(process, request.owner), frozenset(process.labels)
        tables = await self._tables.open()
        pack = partial(tables.kv.pack, quota_owner.owner, request.namespace, request.contents)
        size = sum(len(content.data) for content in request.contents.values() if content)
        packed = await asyncio.to_thread(pack) if size > LARGE else None

        def put(connection: Connection) -> None:
            items = pack() if packed is None else packed
            put_all = partial(tables.kv.put, connection, quota_owner, request.namespace, items)
            put_all(labels=labels, ttl_s=request.ttl_s)

        await tables.state.database.awrite(put)

    async def _list(self, process: AgentProcess, request: KeyValueList) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        entries = await tables.state.database.aread(
            lambda c: tables.kv.list(c, owner, request.namespace, request.key_range)
        )
        return with_all_labels(entries)

    async def _clear(self, process: AgentProcess, request: KeyValueClear) -> int:
        quota_owner, tables = QuotaOwner.of(process, request.owner), await self._tables.open()
        return await tables.state.database.awrite(
            lambda c: tables.kv.clear(c, quota_owner, request.namespace, request.prefix)
        )

    async def _touch(self, process: AgentProcess, request: KeyValueTouch) -> int:
        owner, tables = request.owner or process.identity, await self._tables.open()
        chosen = request.prefix if request.keys is None else request.keys
        return await tables.state.database.awrite(
            lambda c: tables.kv.touch(c, owner, request.namespace, chosen, request.ttl_s)
        )

    async def _sweep(self, process: AgentProcess, request: KeyValueSweep) -> int:
        quota_owner, tables = QuotaOwner.of(process, request.owner), await self._tables.open()
        return await tables.state.database.awrite(
            lambda c: tables.kv.sweep(c, quota_owner, request.namespace)
        )

    async def _namespaces(self, process: AgentProcess, request: KeyValueNamespaces) -> Any:
        owner, tables = request.owner or process.identity, await self._tables.open()
        names = await tables.state.database.aread(
            lambda c: tables.kv.namespaces(c, owner, request.prefix)
        )
        return _texts_of(names)


def _texts_of(names: Sequence[Name]) -> Any:
    return with_labels(tuple(name.text for name in names), labels_of_all(names))
