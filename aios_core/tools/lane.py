"""The waiting calls of one tool, in the order of a policy, at logarithmic cost.

Each agent has a queue of its own in the lane; the lane keeps the queues by the
rank of their first call. Ranks of one agent's calls move together, and only grow
while they wait, so a rank known from before is a lower bound: the best queue is
found by ranking the top again until it stays the top.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import ClassVar

from aios_core.tools.breaker import Breaker, Bucket
from aios_core.tools.services import Flow, Ranking
from aios_core.tools.tool import Tool

Rank = tuple[float, ...]
FIRST_GUESS_S = 0.1  # how long a tool takes, before it has been seen


class TurnState(StrEnum):
    """Where a call stands among the others."""

    WAITING = "waiting"
    RUNNING = "running"
    LINGERING = "lingering"  # answered, but what it started has not ended
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Turn:
    """One call in the books. Satisfies `aios_core.scheduler.policy.Waiting`."""

    id: int
    pid: int
    tool: Tool
    lane: Lane
    agent: Flow
    group: Flow
    group_name: str
    priority: int
    seq: int
    queued_at: float
    state: TurnState = TurnState.WAITING
    charged_ms: float = 0.0
    since: float = 0.0  # when it began to run, or to linger
    prompt_tokens: ClassVar[int] = 0  # what policies read of calls of models
    expected_answer_tokens: ClassVar[int] = 0
    deadline_at: ClassVar[float | None] = None
    model: ClassVar[str | None] = None

    def __repr__(self) -> str:
        return f"<Turn {self.id} of agent {self.pid} for {self.tool.id}: {self.state}>"


@dataclass(slots=True, eq=False)
class _Queue:
    """One agent's waiting calls of a lane: a heap, with some calls that left still in it."""

    pid: int
    heap: list[tuple[Rank, int, Turn]] = field(default_factory=list)
    entry: int = -1  # of the lane's heap; older ones do not count
    num_left: int = 0  # calls in the heap that wait no longer

    def first(self) -> Turn | None:
        while self.heap and self.heap[0][2].state is not TurnState.WAITING:
            heappop(self.heap)
            self.num_left -= 1
        return self.heap[0][2] if self.heap else None

    def compact(self) -> None:
        """Let go of the calls that left, once they are most of the heap."""
        if self.num_left > len(self.heap) // 2:
            self.heap = [one for one in self.heap if one[2].state is TurnState.WAITING]
            heapify(self.heap)
            self.num_left = 0


class Lane:
    """See the module. `name` is the tool's id, with its owner if it has one."""

    def __init__(self, name: str, breaker: Breaker, ranking: Ranking) -> None:
        self.name = name
        self.breaker = breaker
        self.bucket: Bucket | None = None
        self.num_waiting = 0
        self.num_running = 0  # lingering ones too
        self.num_lingering = 0
        self.mean_s = FIRST_GUESS_S
        self._ranking = ranking
        self._queues: dict[int, _Queue] = {}
        self._heap: list[tuple[Rank, int, _Queue]] = []
        self._ages: OrderedDict[int, Turn] = OrderedDict()  # the oldest first
        self._entries = count()

    def __iter__(self) -> Iterator[Turn]:
        """The waiting calls, in no order."""
        for queue in tuple(self._queues.values()):
            yield from [turn for _, _, turn in queue.heap if turn.state is TurnState.WAITING]

    def push(self, turn: Turn) -> None:
        """One more call waits."""
        queue = self._queues.get(turn.pid)
        if queue is None:
            queue = self._queues[turn.pid] = _Queue(turn.pid)
        heappush(queue.heap, (self._ranking.rank(turn), turn.seq, turn))
        self._ages[turn.id] = turn
        self.num_waiting += 1
        if queue.first() is turn:
            self._file(queue)

    def leave(self, turn: Turn) -> None:
        """A call waits no more; its state was changed before."""
        self.num_waiting -= 1
        del self._ages[turn.id]
        queue = self._queues[turn.pid]
        queue.num_left += 1
        if queue.first() is None:
            del self._queues[turn.pid]
        else:
            queue.compact()
            self._file(queue)
        if not self._queues:
            self._heap.clear()  # entries of queues that are no more

    def refile(self, pid: int) -> None:
        """An agent that `best` passed over may run again."""
        if (queue := self._queues.get(pid)) is not None:
            self._file(queue)

    def best(self, is_full: dict[int, bool]) -> tuple[Rank, Turn] | None:
        """The call of the smallest rank; agents for which `is_full` are passed over.

        They are out of the heap then, until `refile`.
        """
        heap = self._heap
        while heap:
            known, entry, queue = heap[0]
            turn = queue.first() if queue.entry == entry else None
            if turn is None or is_full.get(queue.pid, False):
                heappop(heap)
                continue
            rank = self._ranking.rank(turn)
            if rank <= known:
                return rank, turn
            heapreplace(heap, (rank, entry, queue))
        return None

    def oldest(self) -> Turn | None:
        """The call that waits longest."""
        return next(iter(self._ages.values()), None)

    def use(self, ranking: Ranking) -> None:
        """Order the calls by another policy."""
        self._ranking = ranking
        for queue in self._queues.values():
            waiting = [one for one in queue.heap if one[2].state is TurnState.WAITING]
            queue.heap = [(ranking.rank(turn), seq, turn) for _, seq, turn in waiting]
            queue.num_left = 0
            heapify(queue.heap)
        self._heap.clear()
        for queue in self._queues.values():
            self._file(queue)

    def learn(self, took_s: float) -> None:
        """A call took that long; the mean forgets what is long ago."""
        self.mean_s += (took_s - self.mean_s) / 8

    def _file(self, queue: _Queue) -> None:
        if (turn := queue.first()) is not None:
            queue.entry = next(self._entries)
            heappush(self._heap, (self._ranking.rank(turn), queue.entry, queue))
            if len(self._heap) > 2 * len(self._queues) + 64:
                self._heap = [one for one in self._heap if one[2].entry == one[1]]
                heapify(self._heap)
