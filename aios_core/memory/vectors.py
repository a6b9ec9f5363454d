"""The vectors of blocks in the database: kept in step with the texts by version.

A block's passages are embedded when a search needs them: writing never waits for a
model, and what a kill interrupted is found missing by the next search. They count as
up to date if their block has the version, and the embedder the name, that they were
made for. Vectors are sealed like the texts that they tell about.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from aios_core.memory.blocks import BlockRow, BlockTable
from aios_core.memory.codec import Codec
from aios_core.memory.passages import cosines, pack_vector, passages
from aios_core.memory.records import MemoryHit
from aios_core.state import Connection


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A block whose vectors are missing or old, with its passages."""

    row: BlockRow
    places: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]


class VectorTable:
    """See the module. Runs on the database's threads, in its caller's transaction."""

    def __init__(self, codec: Codec, blocks: BlockTable) -> None:
        self._codec = codec
        self._blocks = blocks

    def unindexed(
        self, connection: Connection, owner: str, prefix: str, embedder: str, most_chars: int
    ) -> list[Unindexed]:
        """Blocks to embed, until their texts have `most_chars`; none: all is up to date."""
        query = "SELECT version, embedder FROM memory_indexed WHERE block = ?"
        found: list[Unindexed] = []
        for row in self._texts(connection, owner, prefix):
            if most_chars <= 0:
                break
            known = connection.execute(query, (row.id,)).fetchone()
            if known == (row.version, embedder):
                continue
            text = self._blocks.content(connection, owner, row).decode()
            places = tuple(passages(text))
            most_chars -= max(1, len(text))
            texts = tuple(text[start:stop] for start, stop in places)
            found.append(Unindexed(row, places, texts))
        return found

    def store(
        self,
        connection: Connection,
        owner: str,
        work: Unindexed,
        vectors: Sequence[Sequence[float]],
        embedder: str,
    ) -> None:
        """Keep the vectors of a block, unless it was changed or removed since."""
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
                    self._codec.pack(pack_vector(vector), *_about(owner, now.name, part)),
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
        """The passages nearest to a vector, the nearest first, and the labels of their blocks.

        Those at a right angle, or beyond, are not near at all.
        """
        places: list[tuple[BlockRow, int, int]] = []
        vectors: list[bytes] = []
        found = (
            "SELECT v.part, v.start, v.stop, v.vector FROM memory_vectors v "
            "JOIN memory_indexed i ON i.block = v.block "
            "WHERE v.block = ? AND i.version = ? AND i.embedder = ? ORDER BY v.part"
        )
        for row in self._texts(connection, owner, prefix):
            parameters = (row.id, row.version, embedder)
            for part, start, stop, stored in connection.execute(found, parameters):
                places.append((row, start, stop))
                vectors.append(self._codec.unpack(stored, *_about(owner, row.name, part)))
        if not places:
            return (), frozenset()
        scores = cosines(query, vectors)
        near = (n for n in range(len(places)) if scores[n] > 0)
        best = heapq.nlargest(limit, near, key=lambda n: (scores[n], -n))
        texts: dict[int, str] = {}
        hits = []
        labels: frozenset[str] = frozenset()
        for index in best:
            row, start, stop = places[index]
            if row.id not in texts:
                texts[row.id] = self._blocks.content(connection, owner, row).decode()
            text = texts[row.id][start:stop]
            hits.append(MemoryHit(row.name, text, start, stop, scores[index]))
            labels |= row.labels | row.name_labels
        return tuple(hits), labels

    def _texts(self, connection: Connection, owner: str, prefix: str) -> list[BlockRow]:
        rows = self._blocks.all(connection, owner)
        return [row for row in rows if row.is_text and row.name.startswith(prefix)]


def _about(owner: str, name: str, part: int) -> tuple[str, ...]:
    return owner, "vector", name, str(part)
