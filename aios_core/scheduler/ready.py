"""Waiting calls in the order of a policy, at logarithmic cost.

Ranks may grow while a call waits (its agent is served elsewhere), but never
shrink. So a heap of the ranks at the time of the push is a lower bound of the
true order, and the best call is found by ranking the top again until it stays
the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Protocol

from aios_core.core import Core
from aios_core.scheduler.policy import Rank, Waiting
from aios_core.scheduler.shares import FlowShare
from aios_core.syscalls import LLMGenerate, Syscall

SLACK = 64  # entries of calls that left, kept before they are cleared away

Route = tuple[Core, ...]  # the cores that can serve a call


def served_model(request: LLMGenerate, route: Route) -> str:
    """Name the model that serves a request: another than it asks for if that has no core up."""
    served = route[0].models
    return request.model if request.model is not None and request.model in served else served[0]


class Hold(StrEnum):
    """Why a waiting call is not to be served, whatever its rank."""

    FROZEN = "its agent is frozen"
    MOVING = "its KV image is being moved"
    BACKOFF = "it pauses before its next attempt"
    BUDGET = "what is left of its budget is reserved for others"


class Ranking(Protocol):
    """The order of waiting calls."""

    def rank(self, call: Waiting) -> Rank:
        """Return the rank of a call, smallest first. Never raises."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One call in the scheduler's books. Satisfies `policy.Waiting`."""

    syscall: Syscall
    agent: FlowShare
    group: FlowShare
    route: Route
    prompt_tokens: int
    max_tokens: int
    expect_answer: Callable[[], int] | None = None  # estimates the answer's tokens
    seq: int = -1
    queued_at: float = 0.0
    entry: int = -1  # of the queue in which it waits
    quantum_used: int = 0
    charged: float = 0.0  # service already charged for this call
    core: Core | None = None  # where it runs
    home: Core | None = None  # where its context counts as active
    holds: set[Hold] = field(default_factory=set)  # it is served only while there are none
    is_yielding: bool = False  # asked to give up its slot
    _expected: int | None = None

    @property
    def priority(self) -> int:
        return self.syscall.priority

    @property
    def deadline_at(self) -> float | None:
        return self.syscall.deadline_at

    @property
    def model(self) -> str | None:
        return served_model(self.syscall.request, self.route)

    @property
    def expected_answer_tokens(self) -> int:
        # Estimated when a policy first asks: most never do, and what is expected changes.
        if self._expected is None:
            expected = self.max_tokens if self.expect_answer is None else self.expect_answer()
            self._expected = min(self.max_tokens, expected)
        return self._expected

    @property
    def is_held(self) -> bool:
        return bool(self.holds)


class ReadyQueue:
    """Waiting calls, by rank and by age.

    Invariant: every member has one live entry in the heap and one in the order of
    age, those that bear its `entry` number; others are skipped when they come up.
    """

    def __init__(self, policy: Ranking) -> None:
        self._policy = policy
        self._members: dict[int, Ticket] = {}  # by id of the syscall
        self._heap: list[tuple[Rank, int, Ticket]] = []
        self._ages: list[tuple[float, int, Ticket]] = []
        self._entries = count()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(tuple(self._members.values()))

    def push(self, ticket: Ticket) -> None:
        """Add a call whose `seq` and `queued_at` are set."""
        ticket.entry = next(self._entries)
        self._members[ticket.syscall.id] = ticket
        heappush(self._heap, (self._policy.rank(ticket), ticket.entry, ticket))
        heappush(self._ages, (ticket.queued_at, ticket.entry, ticket))
        if max(len(self._heap), len(self._ages)) > 2 * len(self._members) + SLACK:
            self._compact()

    def __contains__(self, ticket: Ticket) -> bool:
        return self._members.get(ticket.syscall.id) is ticket

    def remove(self, ticket: Ticket) -> bool:
        """Take a call out. False if it was not in."""
        return self._members.pop(ticket.syscall.id, None) is not None

    def best(self) -> Ticket | None:
        """The call of the smallest rank, left in the queue."""
        heap, members = self._heap, self._members
        while heap:
            known, entry, ticket = heap[0]
            if ticket.entry != entry or ticket.syscall.id not in members:  # as in `_is_live`
                heappop(heap)
                continue
            rank = self._policy.rank(ticket)
            if rank <= known:
                return ticket
            heapreplace(heap, (rank, entry, ticket))
        return None

    def oldest(self) -> Ticket | None:
        """The call that waits longest, left in the queue."""
        while self._ages:
            _, entry, ticket = self._ages[0]
            if self._is_live(entry, ticket):
                return ticket
            heappop(self._ages)
        return None

    def use(self, policy: Ranking) -> None:
        """Order the queue by another policy."""
        self._policy = policy
        self._heap = [(policy.rank(t), t.entry, t) for t in self._members.values()]
        heapify(self._heap)

    def _compact(self) -> None:
        """Let go of calls that left without coming up; in the long run at no cost."""
        self._heap = [item for item in self._heap if self._is_live(item[1], item[2])]
        self._ages = [item for item in self._ages if self._is_live(item[1], item[2])]
        heapify(self._heap)
        heapify(self._ages)

    def _is_live(self, entry: int, ticket: Ticket) -> bool:
        return ticket.entry == entry and ticket.syscall.id in self._members


@dataclass(slots=True, eq=False)
class Lane:
    """The calls that wait for one route: those of active agents, and those of new ones."""

    returning: ReadyQueue
    arriving: ReadyQueue

    def __len__(self) -> int:
        return len(self.returning) + len(self.arriving)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self.returning
        yield from self.arriving

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self.returning or ticket in self.arriving

    def remove(self, ticket: Ticket) -> None:
        """Take a call out, if it is in."""
        if not self.arriving.remove(ticket):
            self.returning.remove(ticket)

    def use(self, policy: Ranking) -> None:
        """Order both queues by another policy."""
        self.returning.use(policy)
        self.arriving.use(policy)
