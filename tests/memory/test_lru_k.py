"""LRU-K against the pseudo-code of its paper, and its properties."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.memory.lru_k import MAX_SPARED, LruK

NEVER = float("-inf")


@dataclass
class Paper:
    """Figure 2.1 of O'Neil, O'Neil and Weikum, with a search over all pages for the victim."""

    size: int
    k: int
    correlated: float
    retained: float
    pages: set[int] = field(default_factory=set)
    hist: dict[int, list[float]] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)

    def reference(self, page: int, now: float) -> int | None:
        """Reference a page. Returns the page to evict, if any."""
        victim = None
        if page in self.pages:
            if now - self.last[page] > self.correlated:
                period = self.last[page] - self.hist[page][0]
                older = [time + period for time in self.hist[page][:-1]]
                self.hist[page] = [now, *older]
        else:
            if len(self.pages) >= self.size:
                victim = self.victim(now)
                self.pages.discard(victim)
            if page in self.hist and now - self.last[page] <= self.retained:
                self.hist[page] = [now, *self.hist[page][:-1]]
            else:
                self.hist[page] = [now, *[NEVER] * (self.k - 1)]
            self.pages.add(page)
        self.last[page] = now
        return victim

    def victim(self, now: float) -> int:
        free = [page for page in self.pages if now - self.last[page] > self.correlated]
        return min(free or self.pages, key=lambda page: (self.hist[page][-1], self.last[page]))


@given(
    trace=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=200),
    size=st.integers(1, 8),
    k=st.integers(1, 4),
    correlated=st.sampled_from([0.0, 1.0, 5.0]),
    retained=st.sampled_from([float("inf"), 10.0, 40.0]),
)
def test_it_evicts_the_pages_that_the_paper_evicts(
    trace: list[tuple[int, int]], size: int, k: int, correlated: float, retained: float
) -> None:
    paper = Paper(size, k, correlated, retained)
    ours = LruK[int](k, correlated_s=correlated, retained_s=retained)
    now = 0.0

    for page, pause in trace:
        now += pause
        victim = None
        if page not in ours and len(ours) >= size:
            victim = ours.victim(now, is_pressing=True)
        ours.touch(page, now)

        assert victim == paper.reference(page, now)
        ours.check()


def test_one_scan_over_many_pages_evicts_none_that_are_used_often() -> None:
    lru = LruK[str](2)
    for now in range(4):
        lru.touch(f"hot {now % 2}", now)
    for now in range(4, 20):
        if len(lru) == 4:
            assert str(lru.victim(now)).startswith("scan")
        lru.touch(f"scan {now}", now)


def test_a_burst_of_uses_counts_as_one() -> None:
    lru = LruK[str](2, correlated_s=1.0)
    for now in (0.0, 0.3, 0.6):
        lru.touch("burst", now)
    for now in (0.0, 5.0):
        lru.touch("steady", now)

    assert lru.victim(10.0) == "burst"


def test_a_page_in_its_correlated_period_is_evicted_only_under_pressure() -> None:
    lru = LruK[int](2, correlated_s=1.0)
    lru.touch(1, 0.0)

    assert lru.victim(0.5) is None
    assert lru.victim(0.5, is_pressing=True) == 1


def test_a_page_that_returns_does_not_count_as_new() -> None:
    lru = LruK[str](2)
    lru.touch("old", 0)
    assert lru.victim(1) == "old"
    lru.touch("new", 2)
    lru.touch("old", 3)

    assert lru.victim(4) == "new"


def test_the_number_of_retained_histories_is_bounded() -> None:
    lru = LruK[int](2, max_retained=10)
    for now in range(100):
        lru.touch(now, now)
        lru.victim(now + 0.5)

    assert repr(lru) == "<LruK 2: 0 pages, 10 retained>"


def test_a_search_skips_a_bounded_number_of_pages() -> None:
    lru = LruK[int](2, correlated_s=10.0)
    for page in range(3 * MAX_SPARED):
        lru.touch(page, 1.0)

    assert lru.victim(2.0) is None
    assert lru.victim(2.0, is_pressing=True) in range(3 * MAX_SPARED)
    lru.check()


@pytest.mark.parametrize("num_pages", [10, 1_000])
def test_pages_that_come_and_go_leave_nothing_behind(num_pages: int) -> None:
    lru = LruK[int](2)
    for page in range(num_pages):
        lru.touch(page, page)
        lru.forget(page)

    assert len(lru) == 0
    assert len(lru._heap) <= MAX_SPARED + 2
