"""The vectors of blocks in the database, and an index of them in RAM.

A block's chunks are embedded when a search needs them: a write never waits for a model, and
after a crash the next search makes the missing vectors. Vectors are up to date if they were
made for the current version of the block and by the current embedder. They are encrypted
like the texts, as a vector reveals much of its text.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from aios_core.fork_safety import free_after_fork
from aios_core.memory.blocks import BlockRow, BlockTable
from aios_core.memory.codec import Codec
from aios_core.memory.records import MemoryHit
from aios_core.retrieval.chunking import chunk_text
from aios_core.retrieval.nearest import ExactIndex, Found
from aios_core.retrieval.vector_rows import pack
from aios_core.state import Connection

CHUNK_CHARS: Final = 800  # about a paragraph

# The text blocks of an agent below a prefix; `?`: owner, prefix, prefix.
_BELOW: Final = "b.owner = ? AND b.is_text AND substr(b.name, 1, length(?)) = ?"
_UP_TO_DATE: Final = "i.block = b.id AND i.version = b.version AND i.embedder = ?"


@dataclass(frozen=True, slots=True)
class StaleBlock:
    """A block with missing or outdated vectors, and its chunks."""

    row: BlockRow
    places: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a vector's chunk: characters `start` to before `stop` of a block."""

    block: int
    start: int
    stop: int


class BlockVectorTable:
    """Stores and searches the vectors of blocks.

    Runs on the database's threads, in its caller's transaction.
    """

    def __init__(self, codec: Codec, blocks: BlockTable) -> None:
        self._codec = codec
        self._blocks = blocks
        self._lock = free_after_fork(threading.Lock())  # guards the index
        self._index = _BlockIndex()

    def stale_blocks(
        self, connection: Connection, owner: str, prefix: str, embedder: str, most_chars: int
    ) -> list[StaleBlock]:
        """Return blocks to embed, of about `most_chars` characters; empty if all are up to date."""
        query = (
            f"SELECT b.id FROM memory_blocks b LEFT JOIN memory_indexed i ON {_UP_TO_DATE} "  # noqa: S608
            f"WHERE {_BELOW} AND i.block IS NULL"
        )
        missing = connection.execute(query, (embedder, owner, prefix, prefix))
        found: list[StaleBlock] = []
        for row in self._blocks.numbered(connection, [number for (number,) in missing]):
            if most_chars <= 0:
                break
            text = self._blocks.content(connection, owner, row).decode()
            chunks = chunk_text(text, CHUNK_CHARS, overlap=0)
            most_chars -= max(1, len(text))
            places = tuple((chunk.start, chunk.start + len(chunk.text)) for chunk in chunks)
            found.append(StaleBlock(row, places, tuple(chunk.text for chunk in chunks)))
        return found

    def store(
        self,
        connection: Connection,
        owner: str,
        work: StaleBlock,
        vectors: Sequence[Sequence[float]],
        embedder: str,
    ) -> None:
        """Store the vectors of a block, unless it was changed or removed since."""
        now = self._blocks.find(connection, owner, work.row.name)
        if now is None or (now.id, now.version) != (work.row.id, work.row.version):
            return
        connection.execute("DELETE FROM memory_indexed WHERE block = ?", (now.id,))
        connection.execute(
            "INSERT INTO memory_indexed VALUES (?, ?, ?)", (now.id, now.version, embedder)
        )
        connection.executemany(
            "INSERT INTO memory_vectors VALUES (?, ?, ?, ?, ?)",
            [
                (
                    now.id,
                    part,
                    start,
                    stop,
                    self._codec.pack(pack(vector), *_about(owner, now.name, part)),
                )
                for part, ((start, stop), vector) in enumerate(
                    zip(work.places, vectors, strict=True)
                )
            ],
        )

    def nearest(
        self,
        connection: Connection,
        owner: str,
        prefix: str,
        *,
        embedder: str,
        query: Sequence[float],
        limit: int,
    ) -> tuple[tuple[MemoryHit, ...], frozenset[str]]:
        """Return the chunks nearest to a vector, best first, and the labels of their blocks.

        Only chunks with a positive cosine similarity count as near.
        """
        current = self._up_to_date(connection, owner, "", embedder)
        below = self._up_to_date(connection, owner, prefix, embedder) if prefix else current
        with self._lock:
            vectors = self._index.of(owner, embedder)
            vectors.keep_only(current)
            for number in below.keys() - vectors.versions.keys():
                vectors.add(number, below[number], self._stored(connection, owner, number))
            among = vectors.numbers_of(below) if prefix else None
            near = [
                (vectors.places[number], score)
                for number, score in vectors.nearest(pack(query), limit, among)
                if score > 0
            ]
        return self._hits(connection, owner, near)

    def _up_to_date(
        self, connection: Connection, owner: str, prefix: str, embedder: str
    ) -> dict[int, int]:
        """Return the versions of the indexed blocks with a name prefix, by number."""
        query = (
            f"SELECT b.id, b.version FROM memory_blocks b JOIN memory_indexed i ON {_UP_TO_DATE} "  # noqa: S608
            f"WHERE {_BELOW} ORDER BY b.id"
        )
        return dict(connection.execute(query, (embedder, owner, prefix, prefix)))

    def _stored(
        self, connection: Connection, owner: str, number: int
    ) -> list[tuple[int, int, bytes]]:
        """Return the start, stop and vector of each chunk of a block."""
        query = (
            "SELECT b.name, v.part, v.start, v.stop, v.vector FROM memory_vectors v "
            "JOIN memory_blocks b ON b.id = v.block WHERE v.block = ? ORDER BY v.part"
        )
        rows: Iterable[tuple[Any, ...]] = connection.execute(query, (number,))
        return [
            (start, stop, self._codec.unpack(vector, *_about(owner, name, part)))
            for name, part, start, stop, vector in rows
        ]

    def _hits(
        self, connection: Connection, owner: str, near: Sequence[tuple[_Place, float]]
    ) -> tuple[tuple[MemoryHit, ...], frozenset[str]]:
        rows = self._blocks.numbered(connection, {place.block for place, _ in near})
        known = {row.id: row for row in rows}
        texts = {row.id: self._blocks.content(connection, owner, row).decode() for row in rows}
        hits = tuple(
            MemoryHit(
                known[place.block].name,
                texts[place.block][place.start : place.stop],
                place.start,
                place.stop,
                score,
            )
            for place, score in near
        )
        labels = (row.labels | row.name_labels for row in rows)
        return hits, frozenset[str]().union(*labels)


class _BlockIndex:
    """The vectors of recently searched owners, in one `ExactIndex`."""

    def __init__(self) -> None:
        self._exact = ExactIndex()
        self._owners: dict[str, _OwnerVectors] = {}
        self._numbers = count()

    def of(self, owner: str, embedder: str) -> _OwnerVectors:
        """Return the vectors of an owner; empty if there are none or they were dropped."""
        known = self._owners.get(owner)
        if known is None or known.embedder != embedder or not self._exact.holds(known.space):
            if known is not None:
                known.keep_only({})
            held = {o: v for o, v in self._owners.items() if self._exact.holds(v.space)}
            known = _OwnerVectors(self._exact, next(self._numbers), embedder)
            self._owners = {**held, owner: known}
        return known


@dataclass(slots=True)
class _OwnerVectors:
    """The vectors of one owner's blocks that the index has."""

    index: ExactIndex
    space: int
    embedder: str
    versions: dict[int, int] = field(default_factory=dict)  # by block
    places: dict[int, _Place] = field(default_factory=dict)  # by number of the vector
    _of_block: dict[int, list[int]] = field(default_factory=dict)
    _last: int = 0

    def keep_only(self, current: dict[int, int]) -> None:
        """Remove the vectors of blocks that were changed or deleted."""
        for block in [b for b, version in self.versions.items() if current.get(b) != version]:
            del self.versions[block]
            numbers = self._of_block.pop(block)
            self.index.remove(self.space, numbers)
            for number in numbers:
                del self.places[number]

    def add(self, block: int, version: int, chunks: Sequence[tuple[int, int, bytes]]) -> None:
        """Add the vectors of a block."""
        numbers = [self._last + n + 1 for n in range(len(chunks))]
        self._last += len(chunks)
        self.versions[block], self._of_block[block] = version, numbers
        for number, (start, stop, _) in zip(numbers, chunks, strict=True):
            self.places[number] = _Place(block, start, stop)
        rows = [(n, vector) for n, (_, _, vector) in zip(numbers, chunks, strict=True)]
        self.index.add(self.space, rows)

    def numbers_of(self, blocks: Collection[int]) -> frozenset[int]:
        """Return the numbers of some blocks' vectors."""
        return frozenset(n for block in blocks for n in self._of_block.get(block, ()))

    def nearest(self, query: bytes, limit: int, among: AbstractSet[int] | None) -> list[Found]:
        """Return the nearest vectors, the nearest first."""
        return self.index.nearest(self.space, query, limit, among)


def _about(owner: str, name: str, part: int) -> tuple[str, ...]:
    return owner, "vector", name, str(part)
