"""Find the nearest vectors: the contract of an implementation, and exact search.

An index is derived data. An implementation may drop it at any time; it is then built
again from the rows (`aios_core.retrieval.vector_search`).
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from operator import mul
from typing import Any, Final, Protocol

from aios_core.retrieval.vector_rows import Row, unpack

MAX_BYTES: Final = 512 << 20  # of all vectors that exact search keeps in RAM

Found = tuple[int, float]  # the number of a vector, and its cosine similarity to the query


class VectorIndex(Protocol):
    """Holds vector indexes, each under a number, and searches them.

    Its methods block. It is used by one thread at a time.
    """

    @property
    def name(self) -> str:
        """The name for messages: "exact" or "chroma"."""

    def holds(self, index: int) -> bool:
        """Return whether it still has the vectors that this process added to an index."""

    def ids(self, index: int) -> AbstractSet[int]:
        """Return the numbers of an index's vectors, those of earlier processes included."""

    def add(self, index: int, rows: Sequence[Row]) -> None:
        """Add vectors to an index. A vector that it has already is ignored."""

    def remove(self, index: int, ids: Collection[int]) -> None:
        """Remove vectors from an index. Unknown ones are ignored."""

    def nearest(
        self, index: int, vector: bytes, k: int, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        """Return the `k` nearest vectors, exactly or approximately, best first.

        With `among`, return only vectors with these numbers. An approximate index may then
        return fewer than there are.
        """

    def close(self) -> None:
        """Free all resources."""


class ExactIndex:
    """Holds vector indexes in RAM, and compares the query with every vector.

    Uses numpy if it is installed, plain Python otherwise. If all indexes together exceed
    `max_bytes`, the least recently searched ones are dropped.
    """

    name = "exact"

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._matrices: OrderedDict[int, _Matrix] = (
            OrderedDict()
        )  # the least recently searched first

    def holds(self, index: int) -> bool:
        return index in self._matrices

    def ids(self, index: int) -> AbstractSet[int]:
        matrix = self._matrices.get(index)
        return matrix.places.keys() if matrix else frozenset()

    def add(self, index: int, rows: Sequence[Row]) -> None:
        matrix = self._matrices.setdefault(index, _Matrix())
        for number, packed in rows:
            matrix.add(number, packed)
        total = sum(matrix.num_bytes for matrix in self._matrices.values())
        while total > self._max_bytes and len(self._matrices) > 1:
            oldest = next(iter(self._matrices))
            if oldest == index:
                self._matrices.move_to_end(index)
                continue
            total -= self._matrices.pop(oldest).num_bytes

    def remove(self, index: int, ids: Collection[int]) -> None:
        if matrix := self._matrices.get(index):
            for number in ids:
                matrix.remove(number)

    def nearest(
        self, index: int, vector: bytes, k: int, among: AbstractSet[int] | None = None
    ) -> list[Found]:
        matrix = self._matrices.get(index)
        if matrix is None:
            return []
        self._matrices.move_to_end(index)
        return matrix.nearest(vector, k, among)

    def close(self) -> None:
        self._matrices.clear()


def exact_nearest(rows: Iterable[Row], vector: bytes, k: int) -> list[Found]:
    """Return the `k` nearest of some rows, best first."""
    matrix = _Matrix()
    for number, packed in rows:
        matrix.add(number, packed)
    return matrix.nearest(vector, k, None)


class _Matrix:
    """Vectors of one length in one buffer. Removing a row moves the last row into its place."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}  # number -> row
        self._numbers: list[int] = []  # row -> number
        self._data = bytearray()
        self._row_bytes = 0

    @property
    def num_bytes(self) -> int:
        return len(self._data)

    def add(self, number: int, packed: bytes) -> None:
        if number in self.places:
            return
        if not self._numbers:
            self._row_bytes = len(packed)
        if len(packed) != self._row_bytes:
            return  # of another embedder; its rows are about to be removed
        self.places[number] = len(self._numbers)
        self._numbers.append(number)
        self._data += packed

    def remove(self, number: int) -> None:
        row = self.places.pop(number, None)
        if row is None:
            return
        last, size = self._numbers.pop(), self._row_bytes
        if last != number:
            self._numbers[row] = last
            self.places[last] = row
            self._data[row * size : (row + 1) * size] = self._data[-size:]
        del self._data[len(self._data) - size :]

    def nearest(self, vector: bytes, k: int, among: AbstractSet[int] | None) -> list[Found]:
        if len(vector) != self._row_bytes or not self._numbers:
            return []
        rows = None
        if among is not None:
            rows = [row for number in among if (row := self.places.get(number)) is not None]
        find = _with_numpy if (numpy := _numpy()) else _without_numpy
        best = find(numpy, self._data, unpack(vector), k, rows)
        return [(self._numbers[row], score) for row, score in best]


def _with_numpy(
    numpy: Any, data: bytearray, query: array[float], k: int, rows: Sequence[int] | None
) -> list[Found]:
    matrix = numpy.frombuffer(data, dtype="<f4").reshape(-1, len(query))
    if rows is not None:
        matrix = matrix[rows]
    scores = matrix @ numpy.array(query, dtype="<f4")
    k = min(k, len(scores))
    best = numpy.argpartition(scores, len(scores) - k)[len(scores) - k :] if k else []
    found = [(int(place), float(scores[place])) for place in best]
    found.sort(key=lambda hit: (-hit[1], hit[0]))
    return found if rows is None else [(rows[place], score) for place, score in found]


def _without_numpy(
    _: Any, data: bytearray, query: array[float], k: int, rows: Iterable[int] | None
) -> list[Found]:
    size = 4 * len(query)
    view = memoryview(data)
    chosen = range(len(data) // size) if rows is None else rows
    scores = (
        (row, math.fsum(map(mul, unpack(bytes(view[row * size : (row + 1) * size])), query)))
        for row in chosen
    )
    return heapq.nsmallest(k, scores, key=lambda hit: (-hit[1], hit[0]))


def _numpy() -> Any:
    try:
        import numpy as np  # noqa: PLC0415 - not a dependency; used if installed
    except ImportError:
        return None
    return np
