"""Choose the page to evict with LRU-K, by the time of its K-th last use.

O'Neil, O'Neil and Weikum, "The LRU-K Page Replacement Algorithm for Database Disk
Buffering", SIGMOD 1993, figure 2.1. The victim is the page with the oldest K-th last
reference, so that one scan over many pages does not evict pages that are used often.
References within the *correlated reference period* count as one, and a page is not
evicted for that long after its last one. The history of an evicted page is kept for the
*retained information period*, so that a page that returns does not count as new.

Where the paper leaves a choice: pages with fewer than K references are evicted first, the
least recently used of them before the others (its "subsidiary policy"); the number of
retained histories is limited too. `last` and HIST only grow, so that the keys in the heap
may be too small but never too large: a victim is found in logarithmic time, and a
reference does not touch the heap at all.

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
MAX_SPARED: Final = 64  # pages in their correlated reference period that one search skips at most


class _History:
    """HIST and LAST of a page. `ticket` distinguishes its heap entry from outdated ones."""

    __slots__ = ("last", "ticket", "times")

    def __init__(self, k: int) -> None:
        self.times = [NEVER] * k  # of the last K uncorrelated references, the newest first
        self.last = NEVER
        self.ticket = 0


class LruK(Generic[K]):
    """The pages that may be evicted, and the retained histories of evicted ones.

    Args:
        k: how many uncorrelated references are remembered for each page.
        correlated_s: the correlated reference period, in seconds.
        retained_s: the retained information period, in seconds.
        max_retained: how many histories of evicted pages are kept at most.
    """

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
        self._retained: OrderedDict[K, _History] = OrderedDict()  # the first evicted first
        self._heap: list[tuple[float, float, int, K]] = []
        self._tickets = count(1)

    def __repr__(self) -> str:
        return f"<LruK {self.k}: {len(self)} pages, {len(self._retained)} retained>"

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, page: object) -> bool:
        return page in self._pages

    def touch(self, page: K, now: float) -> None:
        """Record a reference to a page; a new page becomes a candidate for eviction."""
        history = self._pages.get(page)
        if history is None:
            self._insert(page, now)
            return
        if now - history.last > self.correlated_s:  # a new, uncorrelated reference
            times = history.times
            # Figure 2.1: a burst of correlated references counts as one instant, so the older
            # times move forward by its length.
            period = history.last - times[0]
            times[1:] = [time + period for time in times[:-1]]
            times[0] = now
        history.last = now

    def victim(self, now: float, *, is_pressing: bool = False) -> K | None:
        """Choose the page to evict, and remove it from the candidates.

        Pages in their correlated reference period are skipped. If all of the first
        `MAX_SPARED` are, return None; with `is_pressing`, return the first of them.
        """
        chosen: K | None = None
        spared: list[tuple[float, float, int, K]] = []
        while self._heap and len(spared) < MAX_SPARED:
            entry = heapq.heappop(self._heap)
            kth, last, ticket, page = entry
            history = self._pages.get(page)
            if history is None or history.ticket != ticket:
                continue  # evicted or forgotten since; entries are removed lazily
            if (history.times[-1], history.last) != (kth, last):  # used since: reinsert by new key
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
        """Remove a page from the candidates, and retain its history. Unknown ones are ignored."""
        if page in self._pages:
            self._retain(page, now)

    def forget(self, page: K) -> None:
        """Remove a deleted page and its history."""
        self._pages.pop(page, None)
        self._retained.pop(page, None)
        if len(self._heap) > 2 * len(self._pages) + MAX_SPARED:  # mostly outdated entries: rebuild
            self._heap = [
                (history.times[-1], history.last, history.ticket, page)
                for page, history in self._pages.items()
            ]
            heapq.heapify(self._heap)

    def check(self) -> None:
        """Raise `KernelBug` unless each page has a heap entry with a key that is not too large."""
        queued = {ticket: (kth, last) for kth, last, ticket, _ in self._heap}
        for page, history in self._pages.items():
            key = queued.get(history.ticket)
            if key is None or key > (history.times[-1], history.last):
                raise KernelBug(f"{page!r} is missing or too late in the eviction heap")
        if self._pages.keys() & self._retained.keys():
            raise KernelBug("a page is a candidate and retained at once")

    # --- inside ------------------------------------------------------------------------------

    def _insert(self, page: K, now: float) -> None:
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
