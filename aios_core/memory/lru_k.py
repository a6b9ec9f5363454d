"""LRU-K: which page to give up, by the time of its K-th last use.

O'Neil, O'Neil and Weikum, "The LRU-K Page Replacement Algorithm for Database Disk
Buffering", SIGMOD 1993, figure 2.1. The page to go is the one whose K-th last
reference lies farthest back, so that one pass over many pages drives out none that
are used again and again. References within the *correlated reference period*
count as one, and a page is spared for that long after its last. The history of
a page outlives it by the *retained information period*, so that a page that
returns is not taken for a new one.

Where the paper leaves a choice: pages with fewer than K references go first, the least
recently used of them before the others (its "subsidiary policy"); retained histories
are limited in number too. `last` and HIST only grow, so a heap with keys that may be
too small finds the least in logarithmic time, and a reference costs no search at all.

Pure: no clock, no I/O; `now` is in seconds of any clock that never runs backwards.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from itertools import count
from typing import Final, Generic, TypeVar

from aios_core.errors import KernelBug

K = TypeVar("K", bound=Hashable)

NEVER: Final = float("-inf")
MAX_SPARED: Final = 64  # pages in their correlated reference period that one search steps over


class _History:
    """HIST and LAST of a page. `ticket` tells its place in the heap from older ones."""

    __slots__ = ("last", "ticket", "times")

    def __init__(self, k: int) -> None:
        self.times = [NEVER] * k  # of uncorrelated references, the last one first
        self.last = NEVER
        self.ticket = 0


class LruK(Generic[K]):
    """The pages that may go, and what is remembered of those that went."""

    def __init__(
        self,
        k: int = 2,
        *,
        correlated_s: float = 0.0,
        retained_s: float = float("inf"),
        max_retained: int = 1_000,
    ) -> None:
        self.k = k
        self.correlated_s = correlated_s
        self.retained_s = retained_s
        self.max_retained = max_retained
        self._pages: dict[K, _History] = {}
        self._retained: OrderedDict[K, _History] = OrderedDict()  # the first one went first
        self._heap: list[tuple[float, float, int, K]] = []
        self._tickets = count(1)

    def __repr__(self) -> str:
        return f"<LruK {self.k}: {len(self)} pages, {len(self._retained)} remembered>"

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, page: object) -> bool:
        return page in self._pages

    def touch(self, page: K, now: float) -> None:
        """A page is used; it is admitted if it is not there."""
        history = self._pages.get(page)
        if history is None:
            self._admit(page, now)
            return
        if now - history.last > self.correlated_s:  # a new, uncorrelated reference
            times = history.times
            period = history.last - times[0]
            times[1:] = [time + period for time in times[:-1]]
            times[0] = now
        history.last = now

    def victim(self, now: float, *, is_pressing: bool = False) -> K | None:
        """Choose a page, and take it out.

        A page in its correlated reference period is spared, unless it `is_pressing` and
        no other is found among the next `MAX_SPARED`. None: all are spared, or there is none.
        """
        chosen: K | None = None
        spared: list[tuple[float, float, int, K]] = []
        while self._heap and len(spared) < MAX_SPARED:
            entry = heapq.heappop(self._heap)
            kth, last, ticket, page = entry
            history = self._pages.get(page)
            if history is None or history.ticket != ticket:
                continue  # it has gone
            if (history.times[-1], history.last) != (kth, last):  # used since: look again later
                heapq.heappush(self._heap, (history.times[-1], history.last, ticket, page))
            elif now - last <= self.correlated_s:
                spared.append(entry)
            else:
                chosen = page
                break
        if chosen is None and spared and is_pressing:
            chosen = spared.pop(0)[3]
        for entry in spared:
            heapq.heappush(self._heap, entry)
        if chosen is not None:
            self._retain(chosen, now)
        return chosen

    def take_out(self, page: K, now: float) -> None:
        """The page is no candidate any more, and is remembered. Unknown ones are ignored."""
        if page in self._pages:
            self._retain(page, now)

    def forget(self, page: K) -> None:
        """The page exists no more."""
        self._pages.pop(page, None)
        self._retained.pop(page, None)
        if len(self._heap) > 2 * len(self._pages) + MAX_SPARED:
            self._heap = [
                (history.times[-1], history.last, history.ticket, page)
                for page, history in self._pages.items()
            ]
            heapq.heapify(self._heap)

    def check(self) -> None:
        """Raise `KernelBug` unless every page is in the heap once, not later than it should."""
        queued = {ticket: (kth, last) for kth, last, ticket, _ in self._heap}
        for page, history in self._pages.items():
            key = queued.get(history.ticket)
            if key is None or key > (history.times[-1], history.last):
                raise KernelBug(f"{page!r} is not where eviction looks for it")
        if self._pages.keys() & self._retained.keys():
            raise KernelBug("a page is there and remembered at once")

    # --- inside ------------------------------------------------------------------------------

    def _admit(self, page: K, now: float) -> None:
        history = self._retained.pop(page, None)
        if history is None or now - history.last > self.retained_s:
            history = _History(self.k)
        history.times[1:] = history.times[:-1]
        history.times[0] = history.last = now
        history.ticket = next(self._tickets)
        self._pages[page] = history
        heapq.heappush(self._heap, (history.times[-1], now, history.ticket, page))

    def _retain(self, page: K, now: float) -> None:
        self._retained[page] = self._pages.pop(page)
        while self._retained:
            oldest = next(iter(self._retained.values()))
            if len(self._retained) <= self.max_retained and now - oldest.last <= self.retained_s:
                break
            self._retained.popitem(last=False)
