"""What is in RAM of one agent's memory, and what has to go.

A space knows all blocks of an agent and holds some of their pages. Everything here is
durable already, so eviction only lets go of bytes. Above the watermark it evicts
pages that LRU-K gives up, sparing those in their correlated reference period; at the
limit it evicts whatever is not pinned. Pinned pages are no candidates.

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

_LEAST_PAGE: Final = 1_024  # bytes; how many histories are retained follows from it


@dataclass(frozen=True, slots=True)
class Residence:
    """How much of an agent's memory may be in RAM, and how long histories are of use."""

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
        """A new one of the algorithm."""
        return LruK(
            self.k,
            correlated_s=self.correlated_s,
            retained_s=self.retained_s,
            max_retained=max(64, self.limit // _LEAST_PAGE),
        )


@dataclass(slots=True, eq=False)
class Block:
    """A block, with those of its pages that are resident."""

    row: BlockRow
    pages: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_resident(self) -> bool:
        return len(self.pages) == self.row.num_pages

    def describe(self) -> BlockInfo:
        """For the agent."""
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


class Space:
    """See the module. `blocks` are all there are; `resident_bytes` what their pages take.

    Invariants: pages are those of the version in `row`; a page is a candidate of LRU-K
    exactly if it is resident and not pinned; never above the limit, pinned ones aside.
    """

    def __init__(self, owner: str, rows: list[BlockRow], residence: Residence) -> None:
        self.owner = owner
        self.blocks = {row.name: Block(row) for row in rows}
        self.resident_bytes = 0
        self.num_evicted = 0
        self.pending: Counter[str] = Counter()  # changes under way, by the block's name
        self._residence = residence
        self._pages: LruK[Page] | None = None  # made with the first page

    def __repr__(self) -> str:
        return f"<Space of {self.owner}: {len(self.blocks)} blocks, {self.resident_bytes} bytes>"

    def get(self, name: str) -> Block:
        """A block. Raises `NoSuchObject`."""
        block = self.blocks.get(name)
        if block is None:
            raise no_such_block(name, (one.row for one in self.blocks.values()))
        return block

    def would_lose(self, name: str, at: int | None) -> bool:
        """Whether a write from the byte `at` on, or of the whole block, replaces something."""
        block = self.blocks.get(name)
        size = 0 if block is None else block.row.size
        return (at or 0) < size or self.pending[name] > 0

    def read(self, block: Block, numbers: range, now: float) -> list[bytes] | None:
        """Pages, if all of them are resident."""
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
        """Resident pages are used."""
        if not block.row.is_pinned:
            touch = self._replacement.touch
            for number in numbers:
                touch((block, number), now)

    def apply(self, change: Change, now: float) -> None:
        """A change is durable: show it. Changes of a space come in the order of their commits."""
        row = change.row
        block = self.blocks.get(row.name)
        if block is None:
            block = self.blocks[row.name] = Block(row)
        before, block.row = block.row, row
        if row.page_bytes != before.page_bytes:
            gone = [*block.pages]
        else:
            gone = [number for number in block.pages if number >= row.num_pages]
        for number in gone:
            self._let_go(block, number)
            self._replacement.forget((block, number))
        if row.is_pinned != before.is_pinned:
            move = self._replacement.take_out if row.is_pinned else self._replacement.touch
            for number in block.pages:
                move((block, number), now)
        self.install(block, change.pages, now)

    def install(self, block: Block, pages: Mapping[int, bytes], now: float) -> None:
        """Pages of the block's present version are here; the room for them is made.

        Of more pages than fit, the last ones stay.
        """
        numbers = list(pages)
        if not block.row.is_pinned:
            numbers = numbers[-max(1, self._residence.limit // block.row.page_bytes) :]
        for number in numbers:
            self.resident_bytes += len(pages[number]) - len(block.pages.get(number, b""))
            block.pages[number] = pages[number]
            if not block.row.is_pinned:
                self._replacement.touch((block, number), now)
        for number in pages.keys() - set(numbers):  # of an older version, if at all
            if number in block.pages:
                self._let_go(block, number)
                self._replacement.forget((block, number))
        self._make_room(now)

    def drop(self, name: str) -> None:
        """A block exists no more. Unknown ones are ignored."""
        block = self.blocks.pop(name, None)
        if block is None:
            return
        for number in [*block.pages]:
            self._let_go(block, number)
        if self._pages is not None:
            for number in range(block.row.num_pages):
                self._pages.forget((block, number))

    def evict(self, num_bytes: int, now: float) -> int:
        """Let go of that much, if so much is not pinned; how many bytes went."""
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
                    raise KernelBug(f"page {number} of {block.row} is lost to eviction")
        if self.resident_bytes - pinned > self._residence.limit:
            raise KernelBug(f"{self!r} is above its limit of {self._residence.limit}")
        if self._pages is not None:
            self._pages.check()
            num_free = sum(
                len(block.pages) for block in self.blocks.values() if not block.row.is_pinned
            )
            if len(self._pages) != num_free:
                raise KernelBug(f"{self!r} has {num_free} pages, and {len(self._pages)} to evict")

    # --- inside ------------------------------------------------------------------------------

    @property
    def _replacement(self) -> LruK[Page]:
        if self._pages is None:
            self._pages = self._residence.replacement()
        return self._pages

    def _make_room(self, now: float) -> None:
        high, limit = self._residence.high, self._residence.limit
        while self.resident_bytes > high:
            if not self._evict_one(now, is_pressing=self.resident_bytes > limit):
                return

    def _evict_one(self, now: float, *, is_pressing: bool) -> bool:
        victim = None if self._pages is None else self._pages.victim(now, is_pressing=is_pressing)
        if victim is None:
            return False
        self._let_go(*victim)
        self.num_evicted += 1
        return True

    def _let_go(self, block: Block, number: int) -> None:
        self.resident_bytes -= len(block.pages.pop(number))
