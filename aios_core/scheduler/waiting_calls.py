"""Calls without a slot: in the queue of their route, or held for a reason.

The route of a call is the set of cores that can serve it; calls with equal routes share a
queue. A held call is in no queue, and keeps its position and age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from weakref import WeakSet

from aios_core.core import Core
from aios_core.queueing.policy import FlowShare, Rank, WaitingCall
from aios_core.queueing.ranked_queue import GuardedPolicy, RankedQueue
from aios_core.scheduler.admission_waits import AdmissionWaits
from aios_core.scheduler.context_sizes import ExpectAnswer, PromptEstimate
from aios_core.syscalls import LLMGenerate, Syscall
from aios_core.token_estimate import TokenRatio

Route = tuple[Core, ...]  # the cores that can serve a call


def served_model(request: LLMGenerate, route: Route) -> str:
    """Return the model that serves a request; a fallback if the requested one has no core up."""
    served = route[0].models
    return request.model if request.model is not None and request.model in served else served[0]


class Hold(StrEnum):
    """A reason for which a waiting call must not run, independent of its rank."""

    FROZEN = "its agent is frozen"
    MOVING = "its KV image is being moved"
    BACKOFF = "it pauses before its next attempt"
    BUDGET = "what is left of its budget is reserved for others"


@dataclass(slots=True, eq=False)
class Ticket:
    """The scheduler's record of one call. Implements `policy.WaitingCall`."""

    syscall: Syscall
    agent: FlowShare
    group: FlowShare
    route: Route
    prompt_tokens: int
    max_tokens: int
    expect_answer: ExpectAnswer | None = None  # estimates the answer's tokens
    ratio: TokenRatio | None = None  # that `prompt_tokens` was estimated with; None: counted
    prompt: PromptEstimate | None = None  # made when its core's memory matters
    context_tokens: int = 0  # of the prompt, by what was known when the call was submitted
    seq: int = -1
    queued_at: float = 0.0
    quantum_used: int = 0
    charged: float = 0.0  # service already charged for this call
    core: Core | None = None  # where it runs
    waited_for_memory: bool = False
    holds: set[Hold] = field(default_factory=set)  # it may run only while this is empty
    is_preempting: bool = False  # asked to give up its slot, which it still has
    _expected: int | None = None

    @property
    def priority(self) -> int:
        return self.syscall.priority

    @property
    def deadline_at(self) -> float | None:
        return self.syscall.deadline_at

    @property
    def model(self) -> str:
        return served_model(self.syscall.request, self.route)

    @property
    def expected_answer_tokens(self) -> int:
        # Estimated when a policy first needs it: most policies never do, and estimates improve.
        if self._expected is None:
            expected = self.max_tokens if self.expect_answer is None else self.expect_answer()
            self._expected = min(self.max_tokens, expected)
        return self._expected

    @property
    def is_held(self) -> bool:
        return bool(self.holds)


LAST = 1 << 62  # behind every position in the order of arrival
# Empty queues beyond this number are dropped: calls pinned to one core make many routes.
MAX_IDLE_QUEUES = 16


@dataclass(frozen=True, slots=True)
class RequeuedView:
    """A running call as it would rank if it joined its queue now."""

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
    def context_tokens(self) -> int:
        return self.ticket.context_tokens

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
    """Make an empty queue of calls, in the order of a policy."""
    return RankedQueue(policy.rank, attrgetter("queued_at"))


@dataclass(slots=True, eq=False)
class RouteQueue:
    """The waiting calls of one route: those of active agents, and those of new ones.

    While memory `is_short`, the calls of new agents are in the order in which the policy lets
    agents become active (`Policy.admission_rank`), else in the order of calls (`Policy.rank`).
    """

    returning: RankedQueue[Ticket]
    arriving: RankedQueue[Ticket]
    waits: AdmissionWaits = field(default_factory=AdmissionWaits)
    is_short: bool = False

    def __len__(self) -> int:
        return len(self.returning) + len(self.arriving)

    def __iter__(self) -> Iterator[Ticket]:
        yield from self.returning
        yield from self.arriving

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self.returning or ticket in self.arriving

    def remove(self, ticket: Ticket) -> None:
        """Remove a call, if it is in the queue."""
        if not self.arriving.remove(ticket):
            self.returning.remove(ticket)

    def demote(self, ticket: Ticket) -> None:
        """Move the call of an agent that is no longer active to those of new agents."""
        if self.returning.remove(ticket):
            ticket.waited_for_memory = True
            self.arriving.push(ticket)


class WaitingCalls:
    """All calls without a slot.

    Invariant: a call is in exactly one route's queue while nothing holds it, else in `_held`.

    Args:
        ranking: the order of the calls of a route.
        entry: the order in which agents become active while memory is short.
        is_active: whether the context of a call's agent is on a core of its route.
    """

    def __init__(
        self, ranking: GuardedPolicy, entry: GuardedPolicy, is_active: Callable[[Ticket], bool]
    ) -> None:
        self.queues: dict[Route, RouteQueue] = {}
        self.num_waiting = 0
        self.is_active = is_active
        self._ranking = ranking
        self._entry = entry
        self._held: dict[int, Ticket] = {}
        self._held_queues: WeakSet[RankedQueue[Ticket]] = WeakSet()  # callers own them

    def __iter__(self) -> Iterator[Ticket]:
        for queue in self.queues.values():
            yield from queue
        yield from tuple(self._held.values())

    def __contains__(self, ticket: Ticket) -> bool:
        queue = self.queues.get(ticket.route)
        return self._held.get(ticket.syscall.id) is ticket or (
            queue is not None and ticket in queue
        )

    @property
    def num_ready(self) -> int:
        """Number of calls that only need a slot to run."""
        return self.num_waiting - len(self._held)

    # --- the order of calls -------------------------------------------------------------------

    def first(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        """Return the most urgent call of a queue, which stays there."""
        if self._ranking.max_wait_s is not None:
            oldest = queue.oldest()
            if oldest is not None and self.is_overdue(oldest, now):
                return oldest
        return queue.best()

    def urgency(self, call: WaitingCall, now: float) -> Rank:
        """Rank a call over all routes: overdue calls first, oldest first, then by the policy."""
        if self.is_overdue(call, now):
            return (0, call.seq)
        return (1, *self._ranking.rank(call))

    def is_overdue(self, call: WaitingCall, now: float) -> bool:
        """Return whether a call has waited longer than the policy allows."""
        bound = self._ranking.max_wait_s
        return bound is not None and now - call.queued_at > bound

    # --- changes ------------------------------------------------------------------------------

    def join(self, ticket: Ticket) -> None:
        """Add a call; its route, position and age must be set."""
        queue = self.queues.get(ticket.route)
        if queue is None:
            queue = RouteQueue(ticket_queue(self._ranking), ticket_queue(self._ranking))
            self.queues[ticket.route] = queue
        self._count(ticket, 1)
        (queue.returning if self.is_active(ticket) else queue.arriving).push(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Remove a call from its queue or from the held ones."""
        self._count(ticket, -1)
        if self._held.pop(ticket.syscall.id, None):
            ticket.holds.clear()
            return
        queue = self.queues[ticket.route]
        queue.remove(ticket)
        if queue.is_short and not queue.arriving:
            self.set_short(queue, is_short=False)
        if not queue and len(self.queues) > MAX_IDLE_QUEUES:
            del self.queues[ticket.route]

    def set_short(self, queue: RouteQueue, *, is_short: bool) -> None:
        """Note whether calls of a route wait for memory, which orders new agents."""
        queue.is_short = is_short
        queue.arriving.reorder(self._rank_of_new(queue))

    def _rank_of_new(self, queue: RouteQueue) -> Callable[[Ticket], Rank]:
        return self._entry.admission_rank if queue.is_short else self._ranking.rank

    def hold(self, ticket: Ticket, reason: Hold) -> None:
        """Keep a call out of its queue while there is any reason to hold it."""
        if not ticket.is_held:
            self.leave(ticket)
            self._held[ticket.syscall.id] = ticket
            self._count(ticket, 1)
        ticket.holds.add(reason)

    def release(self, ticket: Ticket, reason: Hold) -> None:
        """Drop a reason to hold a call. The call joins its queue once no reason is left."""
        if reason not in ticket.holds:
            return
        ticket.holds.discard(reason)
        if not ticket.is_held:
            del self._held[ticket.syscall.id]
            self._count(ticket, -1)
            self.join(ticket)

    def new_queue(self) -> RankedQueue[Ticket]:
        """Make a queue for held calls, which changes its order with the policy."""
        queue = ticket_queue(self._ranking)
        self._held_queues.add(queue)
        return queue

    def reroute(self, ticket: Ticket, route: Route) -> None:
        """Let other cores serve a call; it keeps its position and age."""
        if ticket.is_held:
            ticket.route = route
        else:
            self.leave(ticket)
            ticket.route = route
            self.join(ticket)

    def forget_core(self, core: Core) -> None:
        """Drop the empty queues of a core that was removed."""
        for route in [route for route, queue in self.queues.items() if core in route and not queue]:
            del self.queues[route]

    def reorder(self, ranking: GuardedPolicy) -> None:
        """Order the calls by another policy."""
        self._ranking = ranking
        for queue in self.queues.values():
            queue.returning.reorder(ranking.rank)
            queue.arriving.reorder(self._rank_of_new(queue))
        for held in self._held_queues:
            held.reorder(ranking.rank)

    def _count(self, ticket: Ticket, change: int) -> None:
        ticket.group.num_waiting += change
        self.num_waiting += change
