"""The queue of waiting calls: the smallest rank first, after any changes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios_core.queueing.ranked_queue import RankedQueue


@dataclass(eq=False)
class Item:
    """Something that waits."""

    number: int
    rank: int
    since: float


class Machine(RuleBasedStateMachine):
    """Items come and go and fall back while they wait; a plain list knows the right answer."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: RankedQueue[Item] = RankedQueue(self.rank, lambda item: item.since)
        self.waiting: list[Item] = []
        self.sign = 1
        self.num_made = 0

    def rank(self, item: Item) -> tuple[float, ...]:
        return (self.sign * item.rank, item.number)

    @rule(rank=st.integers(0, 5), since=st.integers(0, 5))
    def push(self, rank: int, since: int) -> None:
        self.num_made += 1
        item = Item(self.num_made, self.sign * rank, since + self.num_made / 1e6)
        self.waiting.append(item)
        self.queue.push(item)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def remove(self, which: int) -> None:
        item = self.waiting.pop(which % len(self.waiting))
        assert self.queue.remove(item)
        assert not self.queue.remove(item)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def fall_back(self, which: int) -> None:
        self.waiting[which % len(self.waiting)].rank += self.sign

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def advance(self, which: int) -> None:
        item = self.waiting[which % len(self.waiting)]
        item.rank -= self.sign
        self.queue.push(item)

    @rule()
    def reverse(self) -> None:
        self.sign = -self.sign
        self.queue.reorder(self.rank)

    @invariant()
    def answers_as_a_list_would(self) -> None:
        assert self.queue.best() is min(self.waiting, key=self.rank, default=None)
        assert self.queue.oldest() is min(self.waiting, key=lambda i: i.since, default=None)
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue) == set(self.waiting)


TestMachine = Machine.TestCase
