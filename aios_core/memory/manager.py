"""The memory manager: blocks in pages, conversations, key-value namespaces, search.

Where things are:

    RAM     `Space`: which blocks an agent has, and its resident pages
    disk    SQLite: everything, always; `BlockTable`, `ThreadTable`, `KeyValueTable`

A write is answered once it is durable, and shown in RAM then: changes come back from the
writer in the order of their commits. So a block that is resident is read on the kernel's
loop, without a thread and without the disk, and equals what is committed. A page that was
evicted is read on a thread; if its block is being changed meanwhile, behind those changes.

Promises: what was answered survives kill -9; a read after an answered write sees it, on
whatever side of an eviction; no agent's pages take more RAM than its limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from aios_core.config import MemoryConfig
from aios_core.embedding import BilledEmbedder
from aios_core.errors import (
    InvalidRequest,
    KernelBug,
    KernelError,
    NoSuchObject,
    QuotaExceeded,
)
from aios_core.manager import Labelled
from aios_core.memory.blocks import BlockRow, BlockTable, Change, Limits
from aios_core.memory.codec import Codec
from aios_core.memory.kv import KeyValueTable
from aios_core.memory.kv_requests import (
    KeyValueClear,
    KeyValueGet,
    KeyValueList,
    KeyValueNamespaces,
    KeyValuePut,
)
from aios_core.memory.quotas import Account, Quotas
from aios_core.memory.records import (
    BlockInfo,
    Content,
    KeyValue,
    MemoryHit,
    MemoryUsage,
    ThreadEntry,
)
from aios_core.memory.requests import (
    MemoryAlloc,
    MemoryAppend,
    MemoryClear,
    MemoryClearAll,
    MemoryList,
    MemoryMeasure,
    MemoryPin,
    MemoryRead,
    MemorySearch,
    MemoryWrite,
    Overwrite,
)
from aios_core.memory.resident import Block, Residence, Space
from aios_core.memory.schema import COMPONENT, SCHEMA
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
from aios_core.memory.vectors import VectorTable
from aios_core.process import AgentProcess
from aios_core.state import Connection, State, StateOpener
from aios_core.syscalls import Request

T = TypeVar("T")

LARGE: Final = 1 << 16  # bytes; more is packed on a thread of its own, not the writer's
EMBED_CHARS: Final = 1 << 18  # characters of texts that are embedded before they are stored


@dataclass(frozen=True, slots=True)
class _Tables:
    """The open state, and what is kept in it."""

    state: State
    blocks: BlockTable
    threads: ThreadTable
    kv: KeyValueTable
    vectors: VectorTable


class MemoryManager:
    """See the module; `aios_core.manager.Manager` says who calls what.

    Args:
        state: where it is kept; opened by the first request.
        config: sizes, quotas and the settings of LRU-K.
        now: the kernel's clock, in seconds; for LRU-K.
        embedder: for `MemorySearch`; None refuses it.
        wall: seconds since 1970; for what is stored.
    """

    name = "memory"

    def __init__(
        self,
        state: StateOpener,
        config: MemoryConfig,
        *,
        now: Callable[[], float],
        embedder: BilledEmbedder | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        state.add_migrations(COMPONENT, SCHEMA)
        self._state = state
        self._config = config
        self._now = now
        self._wall = wall
        self._embedder = embedder
        self._quotas = Quotas(config.quota_bytes, config.group_quota_bytes, config.group_quotas)
        self._residence = Residence(
            limit=config.resident_bytes,
            watermark=config.watermark,
            k=config.lru_k,
            correlated_s=config.correlated_s,
            retained_s=config.retained_s,
        )
        self._tables: _Tables | None = None
        self._spaces: OrderedDict[str, Space] = OrderedDict()  # the least recently used first
        self._loading: dict[str, asyncio.Future[Any]] = {}
        self._resident_bytes = 0  # of all spaces
        self._num_pending = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._serve: Mapping[type[Request[Any]], Callable[..., Awaitable[Any]]] = {
            MemoryAlloc: self._alloc,
            MemoryRead: self._read,
            MemoryWrite: self._write,
            MemoryAppend: self._append,
            MemoryPin: self._pin,
            MemoryClear: self._clear,
            MemoryClearAll: self._clear_all,
            MemoryList: self._list,
            MemorySearch: self._search,
            MemoryMeasure: self._measure,
            ThreadAppend: self._thread_append,
            ThreadReplace: self._thread_replace,
            ThreadRead: self._thread_read,
            ThreadRemove: self._thread_remove,
            ThreadArchive: self._thread_archive,
            ThreadCount: self._thread_count,
            ThreadClear: self._thread_clear,
            ThreadList: self._thread_list,
            KeyValueGet: self._kv_get,
            KeyValuePut: self._kv_put,
            KeyValueList: self._kv_list,
            KeyValueClear: self._kv_clear,
            KeyValueNamespaces: self._kv_namespaces,
        }

    def __repr__(self) -> str:
        return f"<MemoryManager: {len(self._spaces)} agents, {self._resident_bytes} bytes resident>"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return tuple(self._serve)

    async def start(self) -> None:
        """Nothing to do: the state opens with the first request."""

    async def prepare(self, process: AgentProcess, request: Any) -> Request[Any]:
        """A write that replaces what is there as an `Overwrite`, for the access check."""
        if isinstance(request, MemoryWrite) and request.owner in (None, process.identity):
            space = await self._space(process.identity)
            if space.would_lose(request.block, request.at):
                return Overwrite(request)
        checked: Request[Any] = request
        return checked

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        if isinstance(request, Overwrite):
            request = request.write
        try:
            return await self._serve[type(request)](process, request)
        except (NoSuchObject, QuotaExceeded) as exc:
            if getattr(request, "owner", None) in (None, process.identity):
                raise
            raise _for_a_guest(exc) from None

    def forget(self, process: AgentProcess) -> None:
        """Let go of what is in RAM of the agent; whoever reads it again brings it back."""
        space = self._spaces.pop(process.identity, None)
        if space is not None:
            self._resident_bytes -= space.resident_bytes

    async def close(self) -> None:
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._settled.wait()
        self._spaces.clear()
        self._resident_bytes = 0

    def check(self) -> None:
        for space in self._spaces.values():
            space.check()
        held = sum(space.resident_bytes for space in self._spaces.values())
        if held != self._resident_bytes:
            raise KernelBug(f"{self!r}: the agents' pages take {held} bytes")
        if self._num_pending < 0 or self._settled.is_set() != (self._num_pending == 0):
            raise KernelBug(f"{self!r} miscounts {self._num_pending} changes under way")

    # --- blocks ------------------------------------------------------------------------------

    async def _read(self, process: AgentProcess, request: MemoryRead) -> Any:
        space = await self._space(request.owner or process.identity)
        block = space.get(request.block)
        row = block.row
        numbers = _needed(row, request)
        pages = space.read(block, numbers, self._now())
        if pages is None:
            row, numbers, pages = await self._swap_in(space, block, request)
        value = _assembled(row, numbers, pages, request)
        return Labelled(value, row.labels) if row.labels else value

    async def _swap_in(
        self, space: Space, block: Block, request: MemoryRead
    ) -> tuple[BlockRow, range, list[bytes]]:
        """Bring pages back; the block as it is then, and the pages that the request needs."""
        tables = await self._opened()
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
                if block.row is row and space.blocks.get(row.name) is block:  # nothing changed it
                    self._show(space, lambda: space.install(block, loaded, self._now()))
                pages = loaded | here
                return row, numbers, [pages[number] for number in numbers]

        def load_behind(connection: Connection) -> Change:
            found = tables.blocks.get(connection, space.owner, row.name)
            needed = _needed(found, request)
            return Change(found, tables.blocks.pages(connection, space.owner, found, needed))

        change = await self._in_order(tables, space, row.name, load_behind, space.apply)
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
        )
        await self._in_order(tables, space, request.block, alloc, space.apply)

    async def _write(self, process: AgentProcess, request: MemoryWrite) -> int:
        account, labels = Account.of(process, request.owner), frozenset(process.labels)
        tables = await self._opened()
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

        space = await self._space(account.owner)
        change = await self._in_order(tables, space, name, work, space.apply)
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
        change = await self._in_order(tables, space, request.block, work, space.apply)
        return change.row.size

    async def _pin(self, process: AgentProcess, request: MemoryPin) -> None:
        owner = request.owner or process.identity
        tables, space = await self._tables_and_space(owner)
        work = partial(
            tables.blocks.pin, owner=owner, name=request.block, is_pinned=request.is_pinned
        )
        await self._in_order(tables, space, request.block, work, space.apply)

    async def _clear(self, process: AgentProcess, request: MemoryClear) -> None:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        work = partial(tables.blocks.clear, account=account, name=request.block)
        await self._in_order(
            tables, space, request.block, work, lambda row, _now: space.drop(row.name)
        )

    async def _clear_all(self, process: AgentProcess, request: MemoryClearAll) -> int:
        account = Account.of(process, request.owner)
        tables, space = await self._tables_and_space(account.owner)
        work = partial(tables.blocks.clear_all, account=account, prefix=request.prefix)

        def drop(rows: list[BlockRow], _now: float) -> None:
            for row in rows:
                space.drop(row.name)

        cleared = await self._in_order(tables, space, "", work, drop)
        return len(cleared)

    async def _list(self, process: AgentProcess, request: MemoryList) -> tuple[BlockInfo, ...]:
        space = await self._space(request.owner or process.identity)
        chosen = sorted(name for name in space.blocks if name.startswith(request.prefix))
        return tuple(space.blocks[name].describe() for name in chosen)

    async def _measure(self, process: AgentProcess, _request: MemoryMeasure) -> MemoryUsage:
        account = Account.of(process, None)
        tables, space = await self._tables_and_space(account.owner)
        used, group, of_group = await tables.state.database.aread(
            partial(self._quotas.usage, account=account)
        )
        return MemoryUsage(
            used,
            self._quotas.of_agent,
            of_group,
            self._quotas.limit_of_group(group),
            space.resident_bytes,
            self._residence.limit,
        )

    async def _search(self, process: AgentProcess, request: MemorySearch) -> Any:
        if self._embedder is None:
            raise InvalidRequest("a search needs an embedding core, and this kernel has none")
        owner, prefix, embedder = request.owner or process.identity, request.prefix, self._embedder
        tables = await self._opened()
        database = tables.state.database
        missing = partial(
            tables.vectors.unindexed,
            owner=owner,
            prefix=prefix,
            embedder=embedder.name,
            most_chars=EMBED_CHARS,
        )
        while found := await database.aread(missing):
            texts = [text for work in found for text in work.texts]
            vectors = iter(await embedder.embed_for(process, texts) if texts else ())
            for work in found:
                own = [next(vectors) for _ in work.texts]
                await database.awrite(
                    partial(
                        tables.vectors.store,
                        owner=owner,
                        work=work,
                        vectors=own,
                        embedder=embedder.name,
                    )
                )
        (query,) = await embedder.embed_for(process, [request.query])
        hits: tuple[MemoryHit, ...]
        hits, labels = await database.aread(
            partial(
                tables.vectors.nearest,
                owner=owner,
                prefix=prefix,
                embedder=embedder.name,
                query=query,
                limit=request.limit,
            )
        )
        return Labelled(hits, labels) if labels else hits

    # --- conversations -----------------------------------------------------------------------

    async def _thread_append(self, process: AgentProcess, request: ThreadAppend) -> tuple[int, ...]:
        return await self._put_messages(process, request, ThreadTable.append)

    async def _thread_replace(
        self, process: AgentProcess, request: ThreadReplace
    ) -> tuple[int, ...]:
        return await self._put_messages(process, request, ThreadTable.replace)

    async def _put_messages(
        self,
        process: AgentProcess,
        request: ThreadAppend | ThreadReplace,
        put: Callable[..., tuple[int, ...]],
    ) -> tuple[int, ...]:
        account, labels = Account.of(process, request.owner), frozenset(process.labels)
        tables = await self._opened()
        return await tables.state.database.awrite(
            lambda connection: put(
                tables.threads, connection, account, request.thread, request.contents, labels
            )
        )

    async def _thread_read(self, process: AgentProcess, request: ThreadRead) -> Any:
        owner, tables = request.owner or process.identity, await self._opened()
        entries = await tables.state.database.aread(
            lambda c: tables.threads.chosen(c, owner, request.thread, request.chosen)
        )
        return _labelled(entries)

    async def _thread_remove(self, process: AgentProcess, request: ThreadRemove) -> Any:
        account, tables = Account.of(process, request.owner), await self._opened()
        entries = await tables.state.database.awrite(
            lambda c: tables.threads.remove(c, account, request.thread, request.chosen)
        )
        return _labelled(entries)

    async def _thread_archive(self, process: AgentProcess, request: ThreadArchive) -> Any:
        owner, tables = request.owner or process.identity, await self._opened()
        entries = await tables.state.database.awrite(
            lambda c: tables.threads.archive(c, owner, request.thread, request.chosen)
        )
        return _labelled(entries)

    async def _thread_count(self, process: AgentProcess, request: ThreadCount) -> int:
        owner, tables = request.owner or process.identity, await self._opened()
        return await tables.state.database.aread(
            lambda c: tables.threads.count(c, owner, request.thread, request.status)
        )

    async def _thread_clear(self, process: AgentProcess, request: ThreadClear) -> None:
        account, tables = Account.of(process, request.owner), await self._opened()
        await tables.state.database.awrite(
            lambda c: tables.threads.clear(c, account, request.thread)
        )

    async def _thread_list(self, process: AgentProcess, request: ThreadList) -> tuple[str, ...]:
        owner, tables = request.owner or process.identity, await self._opened()
        return await tables.state.database.aread(
            lambda c: tables.threads.names(c, owner, request.prefix)
        )

    # --- key-value namespaces ----------------------------------------------------------------

    async def _kv_get(self, process: AgentProcess, request: KeyValueGet) -> Any:
        owner, tables = request.owner or process.identity, await self._opened()
        entries = await tables.state.database.aread(
            lambda c: tables.kv.get(c, owner, request.namespace, request.keys)
        )
        return _labelled(entries)

    async def _kv_put(self, process: AgentProcess, request: KeyValuePut) -> None:
        account, labels = Account.of(process, request.owner), frozenset(process.labels)
        tables = await self._opened()
        pack = partial(tables.kv.pack, account.owner, request.namespace, request.contents)
        size = sum(len(content.data) for content in request.contents.values() if content)
        packed = await asyncio.to_thread(pack) if size > LARGE else None

        def put(connection: Connection) -> None:
            items = pack() if packed is None else packed
            put_all = partial(tables.kv.put, connection, account, request.namespace, items)
            put_all(labels=labels, ttl_s=request.ttl_s)

        await tables.state.database.awrite(put)

    async def _kv_list(self, process: AgentProcess, request: KeyValueList) -> Any:
        owner, tables = request.owner or process.identity, await self._opened()
        entries = await tables.state.database.aread(
            lambda c: tables.kv.list(c, owner, request.namespace, request.listing)
        )
        return _labelled(entries) if request.listing.with_values else entries

    async def _kv_clear(self, process: AgentProcess, request: KeyValueClear) -> int:
        account, tables = Account.of(process, request.owner), await self._opened()
        return await tables.state.database.awrite(
            lambda c: tables.kv.clear(c, account, request.namespace, request.prefix)
        )

    async def _kv_namespaces(
        self, process: AgentProcess, request: KeyValueNamespaces
    ) -> tuple[str, ...]:
        owner, tables = request.owner or process.identity, await self._opened()
        return await tables.state.database.aread(
            lambda c: tables.kv.namespaces(c, owner, request.prefix)
        )

    # --- inside ------------------------------------------------------------------------------

    async def _opened(self) -> _Tables:
        if self._tables is None:
            state = await self._state.opened()
            codec = Codec(state.vault)
            limits = Limits(self._config.page_bytes, self._residence.high)
            blocks = BlockTable(codec, self._quotas, limits, self._wall)
            self._tables = _Tables(
                state,
                blocks,
                ThreadTable(codec, self._quotas, self._wall),
                KeyValueTable(codec, self._quotas, self._wall),
                VectorTable(codec, blocks),
            )
        return self._tables

    async def _tables_and_space(self, owner: str) -> tuple[_Tables, Space]:
        tables = await self._opened()
        return tables, await self._space(owner)

    async def _space(self, owner: str) -> Space:
        """What is known of an agent's blocks. There is no await between having it and using it."""
        while (space := self._spaces.get(owner)) is None:
            loading = self._loading.get(owner)
            if loading is None:
                loading = self._loading[owner] = asyncio.ensure_future(self._load(owner))
                loading.add_done_callback(_look_at)
            await asyncio.shield(loading)
        self._spaces.move_to_end(owner)
        return space

    async def _load(self, owner: str) -> None:
        """Learn which blocks there are, behind the changes that are under way."""
        try:
            tables = await self._opened()

            def load(connection: Connection) -> tuple[list[BlockRow], list[Change]]:
                rows = tables.blocks.all(connection, owner)
                read = partial(tables.blocks.pages, connection, owner)
                pinned = [row for row in rows if row.is_pinned]
                return rows, [Change(row, read(row, range(row.num_pages))) for row in pinned]

            def show(loaded: tuple[list[BlockRow], list[Change]], now: float) -> None:
                rows, pinned = loaded
                space = self._spaces[owner] = Space(owner, rows, self._residence)
                for change in pinned:
                    space.apply(change, now)
                self._resident_bytes += space.resident_bytes
                self._make_room()

            await self._committed(tables, load, show)
        finally:
            del self._loading[owner]

    async def _in_order(
        self,
        tables: _Tables,
        space: Space,
        name: str,
        work: Callable[[Connection], T],
        show: Callable[[T, float], object],
    ) -> T:
        """Do `work` on the writer's thread, and `show` its durable result in the space."""
        space.pending[name] += 1

        def settle() -> None:
            space.pending[name] -= 1
            if not space.pending[name]:
                del space.pending[name]

        def show_counted(result: T, now: float) -> None:
            self._show(space, lambda: show(result, now))

        return await self._committed(tables, work, show_counted, settle)

    async def _committed(
        self,
        tables: _Tables,
        work: Callable[[Connection], T],
        show: Callable[[T, float], object],
        settle: Callable[[], object] = lambda: None,
    ) -> T:
        """The result of `work`, after `show` was called with it: in the order of the commits.

        A cancelled await takes the work back if it has not begun. Otherwise it is shown all
        the same.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            done = tables.state.database.submit(work)
        except BaseException:
            settle()
            raise
        self._num_pending += 1
        self._settled.clear()

        def finish() -> None:
            settle()
            self._num_pending -= 1
            if not self._num_pending:
                self._settled.set()
            if done.cancelled():
                answer.cancel()
            elif (failure := done.exception()) is not None:
                if not answer.done():
                    answer.set_exception(failure)
            else:
                show(done.result(), self._now())
                if not answer.done():
                    answer.set_result(done.result())

        done.add_done_callback(lambda _done: loop.call_soon_threadsafe(finish))
        try:
            return await answer
        except asyncio.CancelledError:
            done.cancel()
            raise

    def _show(self, space: Space, show: Callable[[], object]) -> None:
        """Change what a space holds, and keep all of them together below their limit."""
        before = space.resident_bytes
        show()
        if self._spaces.get(space.owner) is not space:
            return  # forgotten meanwhile
        self._resident_bytes += space.resident_bytes - before
        self._make_room()

    def _make_room(self) -> None:
        """Evict pages of those agents first who were silent for longest."""
        if self._resident_bytes <= self._config.total_resident_bytes:
            return
        now = self._now()
        for space in self._spaces.values():
            excess = self._resident_bytes - self._config.total_resident_bytes
            if excess <= 0:
                return
            self._resident_bytes -= space.evict(excess, now)


def _needed(row: BlockRow, request: MemoryRead) -> range:
    """The pages that a read needs. Characters may lie anywhere: a text is read whole."""
    if row.is_text:
        return range(row.num_pages)
    return row.pages_of(request.start, row.size if request.stop is None else request.stop)


def _assembled(row: BlockRow, numbers: range, pages: list[bytes], request: MemoryRead) -> Any:
    data = pages[0] if len(pages) == 1 else b"".join(pages)
    value = Content(data, row.is_text).value
    if not request.start and request.stop is None:
        return value
    first = numbers.start * row.page_bytes
    stop = None if request.stop is None else max(0, request.stop - first)
    return value[max(0, request.start - first) : stop]


def _labelled(entries: tuple[ThreadEntry, ...] | tuple[KeyValue, ...]) -> Any:
    labels = frozenset().union(*(entry.labels for entry in entries))
    return Labelled(entries, labels) if labels else entries


def _for_a_guest(exc: NoSuchObject | QuotaExceeded) -> KernelError:
    """An error about another's memory, without the names of what else that keeps."""
    if isinstance(exc, NoSuchObject):
        return NoSuchObject(exc.kind, exc.name)
    return QuotaExceeded(
        exc.owner,
        exc.resource,
        limit=exc.limit,
        used=exc.used,
        requested=exc.requested,
        hint="its owner has to make room",
    )


def _look_at(future: asyncio.Future[Any]) -> None:
    """Those who waited may all have gone; then nobody else looks at its error."""
    if not future.cancelled():
        future.exception()
