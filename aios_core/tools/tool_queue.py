"""The waiting calls of one tool, in the order of a scheduling policy.

Each agent has a queue of its own; the tool's queue ranks the agents by their first calls. So an
agent that runs as many calls as it may is passed over as a whole, however many of its calls wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from aios_core.queueing.policy import FlowShare, Rank
from aios_core.queueing.ranked_queue import LAST, GuardedPolicy, RankedQueue
from aios_core.queueing.token_bucket import TokenBucket
from aios_core.tools.circuit_breaker import CircuitBreaker
from aios_core.tools.tool import Tool

FIRST_GUESS_S = 0.1  # the expected time of a tool's first call


class TicketState(StrEnum):
    """The state of a tool call in the scheduler."""

    WAITING = "waiting"
    RUNNING = "running"
    LINGERING = "lingering"  # answered, but its code still runs
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class ToolTicket:
    """The entry of one tool call in the scheduler. Satisfies `queueing.policy.WaitingCall`."""

    id: int
    pid: int
    tool: Tool
    queue: ToolQueue
    agent: FlowShare
    group: FlowShare
    group_name: str
    priority: int
    seq: int
    queued_at: float
    state: TicketState = TicketState.WAITING
    charged_ms: float = 0.0
    since: float = 0.0  # when it started to run, or to linger
    prompt_tokens: ClassVar[int] = 0  # this and the rest: read by policies, for calls of models
    context_tokens: ClassVar[int] = 0
    expected_answer_tokens: ClassVar[int] = 0
    deadline_at: ClassVar[float | None] = None
    model: ClassVar[str | None] = None

    def __repr__(self) -> str:
        return f"<ToolTicket {self.id} of agent {self.pid} for {self.tool.id}: {self.state}>"


class _AgentQueue(RankedQueue[ToolTicket]):
    """The waiting calls of one agent for one tool."""

    def __init__(self, pid: int, ranking: GuardedPolicy) -> None:
        super().__init__(ranking.rank)
        self.pid = pid


class ToolQueue:
    """The calls of one tool: those that wait, by agent, and how many run.

    `name` is the tool's id, with its owner if it has one.
    """

    def __init__(self, name: str, breaker: CircuitBreaker, ranking: GuardedPolicy) -> None:
        self.name = name
        self.breaker = breaker
        self.bucket: TokenBucket | None = None
        self.num_waiting = 0
        self.num_running = 0  # including lingering calls
        self.num_lingering = 0
        self.mean_s = FIRST_GUESS_S
        self._ranking = ranking
        self._agents: dict[int, _AgentQueue] = {}
        self._ready: RankedQueue[_AgentQueue] = RankedQueue(self._rank_of)
        self._ages: OrderedDict[int, ToolTicket] = OrderedDict()  # by id, the oldest first

    def __iter__(self) -> Iterator[ToolTicket]:
        """Iterate over the waiting calls, in no order."""
        for queue in tuple(self._agents.values()):
            yield from queue

    def push(self, ticket: ToolTicket) -> None:
        """Add a waiting call."""
        queue = self._agents.get(ticket.pid)
        if queue is None:
            queue = self._agents[ticket.pid] = _AgentQueue(ticket.pid, self._ranking)
        queue.push(ticket)
        self._ages[ticket.id] = ticket
        self.num_waiting += 1
        if queue.best() is ticket:
            self._ready.push(queue)

    def leave(self, ticket: ToolTicket) -> None:
        """Remove a waiting call, which starts or ends."""
        self.num_waiting -= 1
        del self._ages[ticket.id]
        queue = self._agents[ticket.pid]
        queue.remove(ticket)
        if not queue:
            del self._agents[ticket.pid]
            self._ready.remove(queue)

    def reconsider(self, pid: int) -> None:
        """Consider an agent again that `best` passed over."""
        if (queue := self._agents.get(pid)) is not None:
            self._ready.push(queue)

    def best(self, is_full: Container[int]) -> tuple[Rank, ToolTicket] | None:
        """Return the call of the smallest rank; agents that are full are passed over.

        They are not considered again until `reconsider`.
        """
        while (queue := self._ready.best()) is not None:
            ticket = queue.best()
            if ticket is not None and queue.pid not in is_full:
                return self._ranking.rank(ticket), ticket
            self._ready.remove(queue)
        return None

    def oldest(self) -> ToolTicket | None:
        """Return the call that has waited longest."""
        return next(iter(self._ages.values()), None)

    def reorder(self, ranking: GuardedPolicy) -> None:
        """Order the calls by another policy."""
        self._ranking = ranking
        self._ready = RankedQueue(self._rank_of)
        for queue in self._agents.values():
            queue.reorder(ranking.rank)
            self._ready.push(queue)

    def record_duration(self, took_s: float) -> None:
        """Record the duration of a call in the moving average."""
        self.mean_s += (took_s - self.mean_s) / 8

    def _rank_of(self, queue: _AgentQueue) -> Rank:
        """Return the rank of an agent's first call."""
        ticket = queue.best()
        return LAST if ticket is None else self._ranking.rank(ticket)
