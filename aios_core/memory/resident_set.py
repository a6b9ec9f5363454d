"""The pages of one agent's blocks that are in RAM, and their eviction.

A `ResidentSet` lists all blocks of an agent and holds some of their pages. All content is durable
already, so eviction only frees RAM. Above the watermark, LRU-K chooses pages to evict,
except those in their correlated reference period; above the limit, it chooses those too.
Pinned pages are never evicted.

Pure bookkeeping on the kernel's loop: no I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aios_core.errors import KernelBug
from aios_core.memory.blocks import BlockRow, Change, no_such_block
from aios_core.memory.lru_k import LruK
from aios_core.memory.records import BlockInfo

_LEAST_PAGE: Final = 1_024  # bytes; bounds the number of retained histories


@dataclass(frozen=True, slots=True)
class ResidencyLimits:
    """The limit of an agent's memory in RAM, and the settings of LRU-K.

    Eviction starts above `watermark`, a fraction of `limit`. Periods are in seconds.
    """

    limit: int  # bytes
    watermark: float
    k: int
    correlated_s: float
    retained_s: float

    @property
    def high(self) -> int:
        """Bytes above which pages are evicted."""
        return int(self.limit * self.watermark)

    def replacement(self) -> LruK[Page]:
        """Build an empty LRU-K with these settings."""
        return LruK(
            self.k,
            correlated_s=self.correlated_s,
            retained_s=self.retained_s,
            max_retained=max(64, self.limit // _LEAST_PAGE),
        )


@dataclass(slots=True, eq=False)
class Block:
    """A block, and its resident pages by number."""

    row: BlockRow
    pages: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_resident(self) -> bool:
        return len(self.pages) == self.row.num_pages

    def describe(self) -> BlockInfo:
        """Describe the block for its agent."""
        row = self.row
        return BlockInfo(
            row.name,
            row.size,
            row.is_text,
            row.num_pages,
            len(self.pages),
            row.is_pinned,
            row.labels,
            row.updated_at,
            row.name_labels,
        )


Page = tuple[Block, int]


class ResidentSet:
    """All blocks of one agent, with their resident pages. Used on the kernel's loop only.

    Invariants: a block's pages are of the version in its `row`; a page is a candidate of
    LRU-K exactly if it is resident and not pinned; the pages that are not pinned are never
    above the limit.
    """

    def __init__(self, owner: str, rows: list[BlockRow], residency: ResidencyLimits) -> None:
        self.owner = owner
        self.blocks = {row.name: Block(row) for row in rows}
        self.resident_bytes = 0
        self.num_evicted = 0
        self.pending: Counter[str] = Counter()  # changes in flight, by block name
        self._residency = residency
        self._pages: LruK[Page] | None = None  # made with the first page

    def __repr__(self) -> str:
        return (
            f"<ResidentSet of {self.owner}: {len(self.blocks)} blocks, {self.resident_bytes} bytes>"
        )

    def get(self, name: str) -> Block:
        """Return a block. Raises `NoSuchObject`."""
        block = self.blocks.get(name)
        if block is None:
            raise no_such_block(name, (one.row for one in self.blocks.values()))
        return block

    def would_overwrite(self, name: str, at: int | None) -> bool:
        """Return whether a write at the byte `at` (None: of the whole block) replaces content."""
        block = self.blocks.get(name)
        size = 0 if block is None else block.row.size
        return (at or 0) < size or self.pending[name] > 0

    def read(self, block: Block, numbers: range, now: float) -> list[bytes] | None:
        """Return some pages of a block if all of them are resident, else None."""
        pages = block.pages
        if len(pages) < len(numbers):
            return None
        try:
            found = [pages[number] for number in numbers]
        except KeyError:
            return None
        self.touch(block, numbers, now)
        return found

    def touch(self, block: Block, numbers: Iterable[int], now: float) -> None:
        """Record a use of resident pages."""
        if not block.row.is_pinned:
            touch = self._replacement.touch
            for number in numbers:
                touch((block, number), now)

    def apply(self, change: Change, now: float) -> None:
        """Apply a committed change. The caller passes changes in the order of their commits."""
        row = change.row
        block = self.blocks.get(row.name)
        if block is None:
            block = self.blocks[row.name] = Block(row)
        before, block.row = block.row, row
        if row.page_bytes != before.page_bytes:
            outdated = [*block.pages]
        else:
            outdated = [number for number in block.pages if number >= row.num_pages]
        for number in outdated:
            self._release(block, number)
            self._replacement.forget((block, number))
        if row.is_pinned != before.is_pinned:
            move = self._replacement.take_out if row.is_pinned else self._replacement.touch
            for number in block.pages:
                move((block, number), now)
        self.install(block, change.pages, now)

    def install(self, block: Block, pages: Mapping[int, bytes], now: float) -> None:
        """Make pages of the block's current version resident, and evict others as necessary.

        Of more pages than the limit allows, the last ones are kept.
        """
        numbers = list(pages)
        if not block.row.is_pinned:
            numbers = numbers[-max(1, self._residency.limit // block.row.page_bytes) :]
        for number in numbers:
            self.resident_bytes += len(pages[number]) - len(block.pages.get(number, b""))
            block.pages[number] = pages[number]
            if not block.row.is_pinned:
                self._replacement.touch((block, number), now)
        for number in pages.keys() - set(numbers):  # a resident copy would be outdated
            if number in block.pages:
                self._release(block, number)
                self._replacement.forget((block, number))
        self._make_room(now)

    def drop(self, name: str) -> None:
        """Remove a deleted block. Unknown ones are ignored."""
        block = self.blocks.pop(name, None)
        if block is None:
            return
        for number in [*block.pages]:
            self._release(block, number)
        if self._pages is not None:
            for number in range(block.row.num_pages):
                self._pages.forget((block, number))

    def evict(self, num_bytes: int, now: float) -> int:
        """Evict `num_bytes`, or all that is not pinned. Returns how many bytes were freed."""
        before = self.resident_bytes
        while self.resident_bytes > before - num_bytes and self._evict_one(now, is_pressing=True):
            pass
        return before - self.resident_bytes

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        held = sum(len(data) for block in self.blocks.values() for data in block.pages.values())
        if held != self.resident_bytes:
            raise KernelBug(f"{self!r} holds {held} bytes")
        pinned = 0
        for block in self.blocks.values():
            pinned += sum(map(len, block.pages.values())) if block.row.is_pinned else 0
            for number, data in block.pages.items():
                if len(data) != block.row.page_size(number):
                    raise KernelBug(f"page {number} of {block.row} has {len(data)} bytes")
                if ((block, number) in self._replacement) == block.row.is_pinned:
                    raise KernelBug(
                        f"page {number} of {block.row} must be an eviction candidate or pinned"
                    )
        if self.resident_bytes - pinned > self._residency.limit:
            raise KernelBug(f"{self!r} is above its limit of {self._residency.limit}")
        if self._pages is not None:
            self._pages.check()
            num_free = sum(
                len(block.pages) for block in self.blocks.values() if not block.row.is_pinned
            )
            if len(self._pages) != num_free:
                num = len(self._pages)
                raise KernelBug(f"{self!r} has {num_free} unpinned pages, but {num} candidates")

    # --- inside ------------------------------------------------------------------------------

    @property
    def _replacement(self) -> LruK[Page]:
        if self._pages is None:
            self._pages = self._residency.replacement()
        return self._pages

    def _make_room(self, now: float) -> None:
        high, limit = self._residency.high, self._residency.limit
        while self.resident_bytes > high:
            if not self._evict_one(now, is_pressing=self.resident_bytes > limit):
                return

    def _evict_one(self, now: float, *, is_pressing: bool) -> bool:
        victim = None if self._pages is None else self._pages.victim(now, is_pressing=is_pressing)
        if victim is None:
            return False
        self._release(*victim)
        self.num_evicted += 1
        return True

    def _release(self, block: Block, number: int) -> None:
        self.resident_bytes -= len(block.pages.pop(number))
