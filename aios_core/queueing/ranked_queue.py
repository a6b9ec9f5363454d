"""Waiting calls in the order of a scheduling policy, at logarithmic cost.

A rank may only grow while a call waits, since the service of its agent only grows. So an earlier
rank is a lower bound, and the first call is found by ranking the top of the heap again until it
stays at the top.

A policy may be third-party code, and the kernel uses its results in the middle of updating its
state, often for several calls at once. So every exception and every wrong result of a policy is
caught here: a waiting call that cannot be ranked is kept with the reason (`take_unranked`), and
every other method returns the result that changes least.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import inf, isnan
from numbers import Real
from typing import Any, Final, Generic, TypeVar

from aios_core.errors import SchedulingPolicyError
from aios_core.queueing.policy import Policy, QueueLoad, Rank, WaitingCall
from aios_core.untrusted.third_party import (
    RAISED,
    describe,
    detach,
    pass_on,
    shown_value,
    type_name,
    where_raised,
)

T = TypeVar("T")
log = logging.getLogger(__name__)

LAST: Final[Rank] = (inf,)  # of a waiting call that cannot be ranked, until it is refused
FIRST: Final[Rank] = (-inf,)  # of a running one: it keeps its slot

Unranked = dict[int, tuple[WaitingCall, SchedulingPolicyError]]  # by `id` of the call


class GuardedPolicy:
    """A policy, protected from its own exceptions. Implements `tools.protocols.Ranking` too.

    Each kind of failure is logged once for a policy, since a policy is called very often.
    """

    def __init__(self, policy: Policy, unranked: Unranked | None = None) -> None:
        self.policy = policy
        self.unranked: Unranked = {} if unranked is None else unranked
        self._logged: set[str] = set()
        self._selected: GuardedPolicy = self
        self.adapts = type(policy).select is not Policy.select
        self.ever_interrupts = type(policy).interrupts is not Policy.interrupts
        # Settings of a frozen dataclass, read once, since the scheduler reads them all the time.
        self.quantum = self._asked("quantum", lambda: _number(policy.quantum), None)
        self.max_wait_s = self._asked("max_wait_s", lambda: _number(policy.max_wait_s), None)
        self.takes_turns = self._asked("takes_turns", lambda: bool(policy.takes_turns), False)
        self.warm_first = self._asked("warm_first", lambda: bool(policy.warm_first), False)

    def __repr__(self) -> str:
        return f"<GuardedPolicy {type(self.policy).__name__}>"

    # --- calls of the policy -----------------------------------------------------------------

    def rank(self, call: WaitingCall) -> Rank:
        """Rank a waiting call. One that cannot be ranked goes last, and to `take_unranked`."""
        try:
            rank = self.policy.rank(call)
            if type(rank) is tuple and len(rank) == 1 and type(rank[0]) is int:
                return rank  # as FIFO's: nothing more to check
            return _checked(rank)
        except RAISED as exc:
            pass_on(exc)
            self.unranked[id(call)] = (call, self._failed("rank", exc))
            return LAST

    def admission_rank(self, call: WaitingCall) -> Rank:
        """Rank the agent of a waiting call. One that cannot be ranked is treated as by `rank`."""
        try:
            return _checked(self.policy.admission_rank(call))
        except RAISED as exc:
            pass_on(exc)
            self.unranked[id(call)] = (call, self._failed("admission_rank", exc))
            return LAST

    def rank_running(self, call: WaitingCall) -> Rank:
        """Rank a running call. One that cannot be ranked goes first: it is not interrupted."""
        return self._asked("rank", lambda: _checked(self.policy.rank(call)), FIRST)

    def interrupts(self, waiting: WaitingCall, running: WaitingCall) -> bool:
        """Return whether a waiting call may interrupt a running one."""
        return self._asked(
            "interrupts", lambda: bool(self.policy.interrupts(waiting, running)), False
        )

    def select(self, load: QueueLoad) -> GuardedPolicy:
        """Return the policy to use under this load; the current one if that fails."""
        if not self.adapts:
            return self
        used = self._selected
        chosen = self._asked("select", lambda: _policy(self.policy.select(load)), used.policy)
        if not self._asked("__eq__", lambda: bool(chosen == used.policy), chosen is used.policy):
            is_own = chosen is self.policy
            self._selected = self if is_own else GuardedPolicy(chosen, self.unranked)
        return self._selected

    # --- failures ----------------------------------------------------------------------------

    def take_unranked(self) -> list[tuple[WaitingCall, SchedulingPolicyError]]:
        """Return the calls that could not be ranked since the last time, and why."""
        if not self.unranked:
            return []
        unranked = list(self.unranked.values())
        self.unranked.clear()
        return unranked

    def _asked(self, question: str, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except RAISED as exc:
            pass_on(exc)
            self._failed(question, exc)
            return otherwise

    def _failed(self, question: str, exc: BaseException) -> SchedulingPolicyError:
        error = SchedulingPolicyError(
            type(self.policy).__name__, f"`{question}` failed: {describe(exc)}"
        )
        if question not in self._logged:
            self._logged.add(question)
            log.error("%s (logged once)\n%s", error, where_raised(exc))
        error.__cause__ = detach(exc)
        return error


def _checked(rank: Any) -> Rank:
    """Return a valid rank. Any other value would raise later, when a heap compares it."""
    if not isinstance(rank, tuple):
        raise TypeError(f"a rank is a tuple of numbers, not {_shown(rank)}")
    for part in rank:
        if type(part) is int:  # the usual case, without the slow check
            continue
        if not isinstance(part, Real) or isnan(part):
            raise TypeError(f"a rank is a tuple of numbers, not one with {_shown(part)}")
    return tuple(rank)


def _shown(value: object) -> str:
    """Describe a value for a message without calling its `__repr__`."""
    return shown_value(value) or f"<{type_name(value)}>"


def _policy(chosen: Policy) -> Policy:
    if not isinstance(chosen, Policy):
        raise TypeError(f"a policy selects a policy, not {_shown(chosen)}")
    return chosen


N = TypeVar("N", int, float)


def _number(value: N | None) -> N | None:
    if value is not None and not (isinstance(value, Real) and value >= 0):
        raise TypeError(f"a number of at least 0, or None, not {_shown(value)}")
    return value


SLACK: Final = 64  # stale heap entries that are kept before all are removed


class RankedQueue(Generic[T]):
    """Waiting items by rank and, if their age is given, by age.

    Invariant: every member has one live entry in each heap, the one with its number; other entries
    are stale, and skipped when they reach the top.

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
        """Add an item, or update the rank and age of one that waits already."""
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
