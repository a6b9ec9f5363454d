"""Waiting calls in the order of a policy, at logarithmic cost.

Ranks may grow while a call waits (its agent is served elsewhere), but never
shrink. So a heap of the ranks at the time of the push is a lower bound of the
true order, and the best call is found by ranking the top again until it stays
the top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from aios_core.core import Core
from aios_core.scheduler.policy import Policy, Rank
from aios_core.scheduler.shares import FlowShare
from aios_core.syscalls import Syscall

Route = tuple[Core, ...]  # the cores that can serve a call


@dataclass(slots=True, eq=False)
class Ticket:
    """One call in the scheduler's books. Satisfies `policy.Waiting`."""

    syscall: Syscall
    agent: FlowShare
    group: FlowShare
    route: Route
    prompt_tokens: int
    max_tokens: int
    seq: int = -1
    queued_at: float = 0.0
    quantum_used: int = 0
    charged: float = 0.0  # service already charged for this call
    core: Core | None = None  # where it runs
    is_held: bool = False  # not to be served for now, whatever its rank
    is_yielding: bool = False  # asked to give up its slot

    @property
    def priority(self) -> int:
        return self.syscall.priority


class ReadyQueue:
    """Waiting calls, by rank and by age.

    Invariant: every member has a live entry in the heap and one in the order of
    arrival; entries that are not live any more are skipped when they come up.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._members: dict[int, Ticket] = {}
        self._heap: list[tuple[Rank, int, int, Ticket]] = []
        self._arrivals: deque[tuple[int, Ticket]] = deque()
        self._entries = count()  # ties never compare tickets

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(tuple(self._members.values()))

    def push(self, ticket: Ticket) -> None:
        """Add a call whose `seq` and `queued_at` are set."""
        self._members[ticket.seq] = ticket
        heappush(self._heap, self._entry(ticket))
        if self._arrivals and self._arrivals[-1][0] > ticket.seq:  # one that keeps its place
            self._arrivals = deque(sorted([*self._arrivals, (ticket.seq, ticket)], key=_seq))
        else:
            self._arrivals.append((ticket.seq, ticket))

    def remove(self, ticket: Ticket) -> bool:
        """Take a call out. False if it was not in."""
        return self._members.pop(ticket.seq, None) is not None

    def best(self) -> Ticket | None:
        """The call of the smallest rank, left in the queue."""
        heap = self._heap
        while heap:
            known, _, seq, ticket = heap[0]
            if self._members.get(seq) is not ticket:
                heappop(heap)
            elif self._policy.rank(ticket) <= known:
                return ticket
            else:
                heapreplace(heap, self._entry(ticket))
        return None

    def oldest(self) -> Ticket | None:
        """The call that waits longest, left in the queue."""
        while self._arrivals:
            seq, ticket = self._arrivals[0]
            if self._members.get(seq) is ticket:
                return ticket
            self._arrivals.popleft()
        return None

    def use(self, policy: Policy) -> None:
        """Order the queue by another policy."""
        self._policy = policy
        self._heap = [self._entry(ticket) for ticket in self._members.values()]
        heapify(self._heap)

    def _entry(self, ticket: Ticket) -> tuple[Rank, int, int, Ticket]:
        return (self._policy.rank(ticket), next(self._entries), ticket.seq, ticket)


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

    def remove(self, ticket: Ticket) -> None:
        """Take a call out, if it is in."""
        if not self.returning.remove(ticket):
            self.arriving.remove(ticket)

    def use(self, policy: Policy) -> None:
        """Order both queues by another policy."""
        self.returning.use(policy)
        self.arriving.use(policy)


def _seq(entry: tuple[int, Ticket]) -> int:
    return entry[0]
