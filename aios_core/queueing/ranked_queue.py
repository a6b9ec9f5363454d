"""A queue that can be reordered while its items wait, at logarithmic cost.

A rank may only grow while an item waits: the service of its owner grows, never the reverse. So a
rank known from before is a lower bound, and the first item is found by ranking the top of the heap
again until it stays at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic, TypeVar

from aios_core.queueing.policy import Rank

T = TypeVar("T")

SLACK: Final = 64  # heap entries of items that left, kept before they are cleared away


class RankedQueue(Generic[T]):
    """Waiting items by rank and, if their age is given, by age.

    Invariant: every member has one live entry in each heap, the one that bears its number; others
    are skipped when they come to the top.

    Args:
        rank: returns the rank of an item; the smallest goes first. Never raises.
        age: returns since when an item waits. Without it there is no `oldest`.
    """

    def __init__(self, rank: Callable[[T], Rank], age: Callable[[T], float] | None = None) -> None:
        self._rank = rank
        self._age = age
        self._members: dict[T, int] = {}  # with the number of the live entries
        self._heap: list[tuple[Rank, int, T]] = []
        self._ages: list[tuple[float, int, T]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._members))

    def __contains__(self, item: T) -> bool:
        return item in self._members

    def push(self, item: T) -> None:
        """Add an item. One that waits already is filed by its present rank and age."""
        number = next(self._numbers)
        self._members[item] = number
        heappush(self._heap, (self._rank(item), number, item))
        if self._age is not None:
            heappush(self._ages, (self._age(item), number, item))
        if max(len(self._heap), len(self._ages)) > 2 * len(self._members) + SLACK:
            self._compact()

    def remove(self, item: T) -> bool:
        """Remove an item. Returns whether it was a member."""
        return self._members.pop(item, None) is not None

    def best(self) -> T | None:
        """Return the item of the smallest rank, which stays in the queue."""
        heap, members = self._heap, self._members
        while heap:
            known, number, item = heap[0]
            if members.get(item) != number:
                heappop(heap)
                continue
            rank = self._rank(item)
            if rank <= known:
                return item
            heapreplace(heap, (rank, number, item))
        return None

    def oldest(self) -> T | None:
        """Return the item that has waited longest, which stays in the queue."""
        ages, members = self._ages, self._members
        while ages:
            _, number, item = ages[0]
            if members.get(item) == number:
                return item
            heappop(ages)
        return None

    def reorder(self, rank: Callable[[T], Rank]) -> None:
        """Order the items by another rank."""
        self._rank = rank
        self._heap = [(rank(item), number, item) for item, number in self._members.items()]
        heapify(self._heap)

    def _compact(self) -> None:
        """Drop the entries of items that left; constant cost per push in the long run."""
        members = self._members
        self._heap = [entry for entry in self._heap if members.get(entry[2]) == entry[1]]
        self._ages = [entry for entry in self._ages if members.get(entry[2]) == entry[1]]
        heapify(self._heap)
        heapify(self._ages)
