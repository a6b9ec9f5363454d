"""Serve the requests for blocks: paged, cached in RAM, durable before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from aios_core.manager import all_labelled, labelled
from aios_core.memory.blocks import BlockRow, Change
from aios_core.memory.quotas import Account, labels_of_owner
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
from aios_core.memory.resident_set import Block, Residence, Space
from aios_core.memory.resident_sets import Spaces
from aios_core.memory.tables import Shelf, Tables
from aios_core.process import AgentProcess
from aios_core.state import Connection
from aios_core.syscalls import Request

LARGE: Final = 1 << 16  # bytes; more is compressed on a worker thread, not on the only writer's


class BlockService:
    """Serves the requests for blocks of memory. Used on the kernel's loop only."""

    def __init__(
        self, shelf: Shelf, spaces: Spaces, residence: Residence, now: Callable[[], float]
    ) -> None:
        self._shelf, self._spaces, self._residence, self._now = shelf, spaces, residence, now

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
        space = await self._spaces.of(request.owner or process.identity)
        block = space.get(request.block)
        row = block.row
        numbers = _needed(row, request)
        pages = space.read(block, numbers, self._now())
        if pages is None:
            row, numbers, pages = await self._swap_in(space, block, request)
        value = _assembled(row, numbers, pages, request)
        return labelled(value, row.labels)

    async def _swap_in(
        self, space: Space, block: Block, request: MemoryRead
    ) -> tuple[BlockRow, range, list[bytes]]:
        """Load evicted pages. Returns the block's row, and the numbers and bytes of its pages.

        The fast path reads on a reader thread. If the block changes meanwhile, or has changes
        in flight, pages and row could be of two versions; then the read goes through the
        writer's queue, behind those changes.
        """
        tables = await self._shelf.opened()
        row = block.row
        if not space.pending[row.name]:
            numbers = _needed(row, request)
            here = {number: block.pages[number] for number in numbers if number in block.pages}
            space.touch(block, here, self._now())
            missing = [number for number in numbers if number not in here]

            def load(connection: Connection) -> tuple[BlockRow | None, dict[int, bytes]]:
                found = tables.blocks.find(connection, space.owner, row.name)
                if found is None or (found.id, found.version) != (row.id, row.version):
                    return found, {}
                return found, tables.blocks.pages(connection, space.owner, row, missing)

            found, loaded = await tables.state.database.aread(load)
            if found is not None and (found.id, found.version) == (row.id, row.version):
                # The block may have been changed or removed during the await; then the pages
                # are right for this answer (they match `row`), but not for the resident set.
                if block.row is row and space.blocks.get(row.name) is block:
                    self._spaces.show(space, lambda: space.install(block, loaded, self._now()))
                pages = loaded | here
                return row, numbers, [pages[number] for number in numbers]

        def load_behind(connection: Connection) -> Change:
            found = tables.blocks.get(connection, space.owner, row.name)
            needed = _needed(found, request)
            return Change(found, tables.blocks.pages(connection, space.owner, found, needed))

        change = await self._spaces.in_order(tables, space, row.name, load_behind, space.apply)
        numbers = _needed(change.row, request)
        return change.row, numbers, [change.pages[number] for number in numbers]

    async def _alloc(self, process: AgentProcess, request: MemoryAlloc) -> None:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        alloc = partial(
            tables.blocks.alloc,
            account=account,
            name=request.block,
            is_text=request.is_text,
            pin=request.is_pinned,
            labels=frozenset(process.labels),
        )
        await self._spaces.in_order(tables, space, request.block, alloc, space.apply)

    async def _write(self, process: AgentProcess, request: MemoryWrite) -> int:
        account, labels = Account.of(process, request.owner), frozenset(process.labels)
        tables = await self._shelf.opened()
        name, content = request.block, request.content
        pack, packed = partial(tables.blocks.pack, account.owner, name, content.data), None
        if request.at is None and len(content.data) > LARGE:
            packed = await asyncio.to_thread(pack)

        def work(connection: Connection) -> Change:
            if request.at is not None:
                patch = partial(tables.blocks.patch, connection, account, name, content)
                return patch(at=request.at, labels=labels)
            pages = pack() if packed is None else packed
            write = partial(tables.blocks.write, connection, account, name, content)
            return write(labels=labels, packed=pages)

        space = await self._spaces.of(account.owner)
        change = await self._spaces.in_order(tables, space, name, work, space.apply)
        return change.row.size

    async def _append(self, process: AgentProcess, request: MemoryAppend) -> int:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        work = partial(
            tables.blocks.append,
            account=account,
            name=request.block,
            content=request.content,
            labels=frozenset(process.labels),
        )
        change = await self._spaces.in_order(tables, space, request.block, work, space.apply)
        return change.row.size

    async def _pin(self, process: AgentProcess, request: MemoryPin) -> None:
        owner = request.owner or process.identity
        tables, space = await self._tables_and_space(owner)
        work = partial(
            tables.blocks.pin, owner=owner, name=request.block, is_pinned=request.is_pinned
        )
        await self._spaces.in_order(tables, space, request.block, work, space.apply)

    async def _clear(self, process: AgentProcess, request: MemoryClear) -> None:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        work = partial(tables.blocks.clear, account=account, name=request.block)
        await self._spaces.in_order(
            tables, space, request.block, work, lambda row, _now: space.drop(row.name)
        )

    async def _clear_all(self, process: AgentProcess, request: MemoryClearAll) -> int:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        work = partial(tables.blocks.clear_all, account=account, prefix=request.prefix)

        def drop(rows: list[BlockRow], _now: float) -> None:
            for row in rows:
                space.drop(row.name)

        cleared = await self._spaces.in_order(tables, space, "", work, drop)
        return len(cleared)

    async def _list(self, process: AgentProcess, request: MemoryList) -> Any:
        space = await self._spaces.of(request.owner or process.identity)
        chosen = sorted(name for name in space.blocks if name.startswith(request.prefix))
        return all_labelled([space.blocks[name].describe() for name in chosen])

    async def _measure(self, process: AgentProcess, _request: MemoryMeasure) -> Any:
        account = Account.of(process, None)
        tables, space = await self._tables_and_space(account.owner)
        quotas = self._shelf.quotas
        (used, group, of_group), labels = await tables.state.database.aread(
            lambda c: (quotas.usage(c, account), labels_of_owner(c, account.owner))
        )
        usage = MemoryUsage(
            used,
            quotas.limit_of_agent(account.owner),
            of_group,
            quotas.limit_of_group(group),
            space.resident_bytes,
            self._residence.limit,
        )
        return labelled(usage, labels)

    async def _tables_and_space(self, owner: str) -> tuple[Tables, Space]:
        tables = await self._shelf.opened()
        return tables, await self._spaces.of(owner)


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
