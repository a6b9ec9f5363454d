"""Serve the requests for blocks: paged, cached in RAM, durable before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from aios_core.labels import with_all_labels, with_labels
from aios_core.memory.blocks import BlockRow, Change
from aios_core.memory.quotas import QuotaOwner, labels_of_owner
from aios_core.memory.records import Content, MemoryUsage
from aios_core.memory.requests import (
    MemoryAlloc,
    MemoryAppend,
    MemoryClear,
    MemoryClearAll,
    MemoryList,
    MemoryMeasure,
    MemoryPin,
    MemoryRead,
    MemoryWrite,
)
from aios_core.memory.resident_set import Block, ResidencyLimits, ResidentSet
from aios_core.memory.resident_sets import ResidentSets
from aios_core.memory.tables import LazyTables, MemoryTables
from aios_core.process import AgentProcess
from aios_core.state import Connection
from aios_core.syscalls import Request

LARGE: Final = 1 << 16  # bytes; more is compressed on a worker thread, not on the only writer's


class BlockService:
    """Serves the requests for blocks of memory. Used on the kernel's loop only."""

    def __init__(
        self,
        tables: LazyTables,
        residents: ResidentSets,
        residency: ResidencyLimits,
        now: Callable[[], float],
    ) -> None:
        self._tables, self._residents, self._residency, self._now = (
            tables,
            residents,
            residency,
            now,
        )

    def handlers(self) -> Mapping[type[Request[Any]], Callable[..., Any]]:
        """Map each request type to its handler."""
        return {
            MemoryAlloc: self._alloc,
            MemoryRead: self._read,
            MemoryWrite: self._write,
            MemoryAppend: self._append,
            MemoryPin: self._pin,
            MemoryClear: self._clear,
            MemoryClearAll: self._clear_all,
            MemoryList: self._list,
            MemoryMeasure: self._measure,
        }

    async def _read(self, process: AgentProcess, request: MemoryRead) -> Any:
        resident = await self._residents.of(request.owner or process.identity)
        block = resident.get(request.block)
        row = block.row
        numbers = _needed(row, request)
        pages = resident.read(block, numbers, self._now())
        if pages is None:
            row, numbers, pages = await self._swap_in(resident, block, request)
        value = _assembled(row, numbers, pages, request)
        return with_labels(value, row.labels)

    async def _swap_in(
        self, resident: ResidentSet, block: Block, request: MemoryRead
    ) -> tuple[BlockRow, range, list[bytes]]:
        """Load evicted pages. Returns the block's row, and the numbers and bytes of its pages.

        The fast path reads on a reader thread. If the block changes meanwhile, or has changes
        in flight, pages and row could be of two versions; then the read goes through the
        writer's queue, behind those changes.
        """
        tables = await self._tables.open()
        row = block.row
        if not resident.pending[row.name]:
            numbers = _needed(row, request)
            here = {number: block.pages[number] for number in numbers if number in block.pages}
            resident.touch(block, here, self._now())
            missing = [number for number in numbers if number not in here]

            def load(connection: Connection) -> tuple[BlockRow | None, dict[int, bytes]]:
                found = tables.blocks.find(connection, resident.owner, row.name)
                if found is None or (found.id, found.version) != (row.id, row.version):
                    return found, {}
                return found, tables.blocks.pages(connection, resident.owner, row, missing)

            found, loaded = await tables.state.database.aread(load)
            if found is not None and (found.id, found.version) == (row.id, row.version):
                # The block may have been changed or removed during the await; then the pages
                # are right for this answer (they match `row`), but not for the resident set.
                if block.row is row and resident.blocks.get(row.name) is block:
                    self._residents.apply_committed(
                        resident, lambda: resident.install(block, loaded, self._now())
                    )
                pages = loaded | here
                return row, numbers, [pages[number] for number in numbers]

        def load_behind(connection: Connection) -> Change:
            found = tables.blocks.get(connection, resident.owner, row.name)
            needed = _needed(found, request)
            return Change(found, tables.blocks.pages(connection, resident.owner, found, needed))

        change = await self._residents.in_order(
            tables, resident, row.name, load_behind, resident.apply
        )
        numbers = _needed(change.row, request)
        return change.row, numbers, [change.pages[number] for number in numbers]

    async def _alloc(self, process: AgentProcess, request: MemoryAlloc) -> None:
        quota_owner = QuotaOwner.of(process, request.owner)
        tables, resident = await self._tables_and_resident(quota_owner.owner)
        alloc = partial(
            tables.blocks.alloc,
            quota_owner=quota_owner,
            name=request.block,
            is_text=request.is_text,
            pin=request.is_pinned,
            labels=frozenset(process.labels),
        )
        await self._residents.in_order(tables, resident, request.block, alloc, resident.apply)

    async def _write(self, process: AgentProcess, request: MemoryWrite) -> int:
        quota_owner, labels = QuotaOwner.of(process, request.owner), frozenset(process.labels)
        tables = await self._tables.open()
        name, content = request.block, request.content
        pack, packed = partial(tables.blocks.pack, quota_owner.owner, name, content.data), None
        if request.at is None and len(content.data) > LARGE:
            packed = await asyncio.to_thread(pack)

        def work(connection: Connection) -> Change:
            if request.at is not None:
                patch = partial(tables.blocks.patch, connection, quota_owner, name, content)
                return patch(at=request.at, labels=labels)
            pages = pack() if packed is None else packed
            write = partial(tables.blocks.write, connection, quota_owner, name, content)
            return write(labels=labels, packed=pages)

        resident = await self._residents.of(quota_owner.owner)
        change = await self._residents.in_order(tables, resident, name, work, resident.apply)
        return change.row.size

    async def _append(self, process: AgentProcess, request: MemoryAppend) -> int:
        quota_owner = QuotaOwner.of(process, request.owner)
        tables, resident = await self._tables_and_resident(quota_owner.owner)
        work = partial(
            tables.blocks.append,
            quota_owner=quota_owner,
            name=request.block,
            content=request.content,
            labels=frozenset(process.labels),
        )
        change = await self._residents.in_order(
            tables, resident, request.block, work, resident.apply
        )
        return change.row.size

    async def _pin(self, process: AgentProcess, request: MemoryPin) -> None:
        owner = request.owner or process.identity
        tables, resident = await self._tables_and_resident(owner)
        work = partial(
            tables.blocks.pin, owner=owner, name=request.block, is_pinned=request.is_pinned
        )
        await self._residents.in_order(tables, resident, request.block, work, resident.apply)

    async def _clear(self, process: AgentProcess, request: MemoryClear) -> None:
        quota_owner = QuotaOwner.of(process, request.owner)
        tables, resident = await self._tables_and_resident(quota_owner.owner)
        work = partial(tables.blocks.clear, quota_owner=quota_owner, name=request.block)
        await self._residents.in_order(
            tables, resident, request.block, work, lambda row, _now: resident.drop(row.name)
        )

    async def _clear_all(self, process: AgentProcess, request: MemoryClearAll) -> int:
        quota_owner = QuotaOwner.of(process, request.owner)
        tables, resident = await self._tables_and_resident(quota_owner.owner)
        work = partial(tables.blocks.clear_all, quota_owner=quota_owner, prefix=request.prefix)

        def drop(rows: list[BlockRow], _now: float) -> None:
            for row in rows:
                resident.drop(row.name)

        cleared = await self._residents.in_order(tables, resident, "", work, drop)
        return len(cleared)

    async def _list(self, process: AgentProcess, request: MemoryList) -> Any:
        resident = await self._residents.of(request.owner or process.identity)
        chosen = sorted(name for name in resident.blocks if name.startswith(request.prefix))
        return with_all_labels([resident.blocks[name].describe() for name in chosen])

    async def _measure(self, process: AgentProcess, _request: MemoryMeasure) -> Any:
        quota_owner = QuotaOwner.of(process, None)
        tables, resident = await self._tables_and_resident(quota_owner.owner)
        quotas = self._tables.quotas
        (used, group, of_group), labels = await tables.state.database.aread(
            lambda c: (quotas.usage(c, quota_owner), labels_of_owner(c, quota_owner.owner))
        )
        usage = MemoryUsage(
            used,
            quotas.limit_of_agent(quota_owner.owner),
            of_group,
            quotas.limit_of_group(group),
            resident.resident_bytes,
            self._residency.limit,
        )
        return with_labels(usage, labels)

    async def _tables_and_resident(self, owner: str) -> tuple[MemoryTables, ResidentSet]:
        tables = await self._tables.open()
        return tables, await self._residents.of(owner)


def _needed(row: BlockRow, request: MemoryRead) -> range:
    """Return the pages that a read needs: of a text all, as characters have no fixed size."""
    if row.is_text:
        return range(row.num_pages)
    return row.pages_of(request.start, row.size if request.stop is None else request.stop)


def _assembled(row: BlockRow, numbers: range, pages: list[bytes], request: MemoryRead) -> Any:
    """Join pages to the value, or part of it, that the request asks for."""
    data = pages[0] if len(pages) == 1 else b"".join(pages)
    value = Content(data, row.is_text).value
    if not request.start and request.stop is None:
        return value
    first = numbers.start * row.page_bytes
    stop = None if request.stop is None else max(0, request.stop - first)
    return value[max(0, request.start - first) : stop]
