"""Where calls wait: in the queue of their route, or held back for a reason.

The cores that can serve a call are its route; calls of one route share a queue. A
held call keeps its place (its position and age), and is in no queue meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from weakref import WeakSet

from aios_core.core import Core
from aios_core.queueing.policy import FlowShare
from aios_core.queueing.ranked_queue import GuardedPolicy, RankedQueue
from aios_core.scheduler.admission import Admission
from aios_core.syscalls import LLMGenerate, Syscall

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


LAST = 1 << 62  # behind every position in the order of arrival
MAX_IDLE_ROUTES = 16  # more are dropped once they are empty; many routes are pinned to one core


@dataclass(frozen=True, slots=True)
class AtTail:
    """A running call as it would stand in the queue if it joined now."""

    ticket: Ticket
    queued_at: float
    seq: int = LAST

    @property
    def priority(self) -> int:
        return self.ticket.priority

    @property
    def prompt_tokens(self) -> int:
        return self.ticket.prompt_tokens

    @property
    def expected_answer_tokens(self) -> int:
        return self.ticket.expected_answer_tokens

    @property
    def deadline_at(self) -> float | None:
        return self.ticket.deadline_at

    @property
    def model(self) -> str | None:
        return self.ticket.model

    @property
    def agent(self) -> FlowShare:
        return self.ticket.agent

    @property
    def group(self) -> FlowShare:
        return self.ticket.group


def ticket_queue(policy: GuardedPolicy) -> RankedQueue[Ticket]:
    """Return an empty queue of calls, in the order of a policy."""
    return RankedQueue(policy.rank, attrgetter("queued_at"))


@dataclass(slots=True, eq=False)
class RouteQueue:
    """The calls that wait for one route: those of active agents, and those of new ones."""

    returning: RankedQueue[Ticket]
    arriving: RankedQueue[Ticket]

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

    def reorder(self, policy: GuardedPolicy) -> None:
        """Order both queues by another policy."""
        self.returning.reorder(policy.rank)
        self.arriving.reorder(policy.rank)


class WaitingCalls:
    """All calls without a slot.

    Invariant: a call is in exactly one route's queue while nothing holds it, else in `_held`.

    Args:
        ranking: the order of the calls of a route.
        admission: knows which agents have their context on a core.
    """

    def __init__(self, ranking: GuardedPolicy, admission: Admission) -> None:
        self.queues: dict[Route, RouteQueue] = {}
        self.num_waiting = 0
        self._ranking = ranking
        self._admission = admission
        self._held: dict[int, Ticket] = {}
        self._queues: WeakSet[RankedQueue[Ticket]] = WeakSet()  # of held calls, kept by others

    def __iter__(self) -> Iterator[Ticket]:
        for waiting in self.queues.values():
            yield from waiting
        yield from tuple(self._held.values())

    def __contains__(self, ticket: Ticket) -> bool:
        waiting = self.queues.get(ticket.route)
        return self._held.get(ticket.syscall.id) is ticket or (
            waiting is not None and ticket in waiting
        )

    @property
    def num_ready(self) -> int:
        """Calls that wait for nothing but a slot."""
        return self.num_waiting - len(self._held)

    def is_active(self, ticket: Ticket) -> bool:
        """Return whether the context of its agent is on a core that can serve the call."""
        return any(self._admission.is_active(core, ticket.syscall.pid) for core in ticket.route)

    def join(self, ticket: Ticket) -> None:
        """Add a call whose route, position and age are set."""
        waiting = self.queues.get(ticket.route)
        if waiting is None:
            waiting = RouteQueue(ticket_queue(self._ranking), ticket_queue(self._ranking))
            self.queues[ticket.route] = waiting
        self._count(ticket, 1)
        is_active = self._admission.has_any and self.is_active(ticket)
        (waiting.returning if is_active else waiting.arriving).push(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Remove a call from its queue or from the held ones."""
        self._count(ticket, -1)
        if self._held.pop(ticket.syscall.id, None):
            ticket.holds.clear()
            return
        waiting = self.queues[ticket.route]
        waiting.remove(ticket)
        if not waiting and len(self.queues) > MAX_IDLE_ROUTES:
            del self.queues[ticket.route]

    def hold(self, ticket: Ticket, reason: Hold) -> None:
        """Keep a call out of its queue while any reason to hold it stands."""
        if not ticket.is_held:
            self.leave(ticket)
            self._held[ticket.syscall.id] = ticket
            self._count(ticket, 1)
        ticket.holds.add(reason)

    def release(self, ticket: Ticket, reason: Hold) -> None:
        """Drop a reason to hold a call. It joins its queue once none is left."""
        if reason not in ticket.holds:
            return
        ticket.holds.discard(reason)
        if not ticket.is_held:
            del self._held[ticket.syscall.id]
            self._count(ticket, -1)
            self.join(ticket)

    def new_queue(self) -> RankedQueue[Ticket]:
        """A queue for some of the held calls, kept in the order of the queues."""
        queue = ticket_queue(self._ranking)
        self._queues.add(queue)
        return queue

    def reroute(self, ticket: Ticket, route: Route) -> None:
        """Let a call be served by other cores; it keeps its place."""
        if ticket.is_held:
            ticket.route = route
        else:
            self.leave(ticket)
            ticket.route = route
            self.join(ticket)

    def reorder(self, ranking: GuardedPolicy) -> None:
        """Order the calls by another policy."""
        self._ranking = ranking
        for waiting in self.queues.values():
            waiting.reorder(ranking)
        for queue in self._queues:
            queue.reorder(ranking.rank)

    def _count(self, ticket: Ticket, change: int) -> None:
        ticket.group.num_waiting += change
        self.num_waiting += change
