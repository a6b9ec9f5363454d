"""Which tool call runs next. Decides only: no clock, no thread, no tool.

The waiting calls of all tools are ranked by the kernel's scheduling policy, with
milliseconds of running tools as the service that agents and groups receive. The
best-ranked call that may run, runs:

- at most `max_running` calls at once, and `max_running_per_agent` of one agent, so
  that long calls of a heavy agent cannot take every worker;
- at most `parallel` of one tool, at its rate, and `max_processes` in processes;
- all of a call's exclusive resources at once or none, so there is no deadlock. A
  call that waits for resources alone *claims* them: none that ranks behind it may
  take one first, so it does not starve.

Invariants (see `check`): a resource has at most one holder; no limit is exceeded;
a turn is counted where its state says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import TypeVar

from aios_core.errors import KernelBug, KernelError, Overloaded, ToolUnavailable
from aios_core.queueing.policy import FlowShare, Policy, QueueLoad, Rank
from aios_core.queueing.ranked_queue import GuardedPolicy
from aios_core.queueing.token_bucket import TokenBucket
from aios_core.tools.circuit_breaker import Breaker
from aios_core.tools.tool import Tool
from aios_core.tools.tool_queue import Lane, Turn, TurnState

K = TypeVar("K")

HANG_GRACE_S = 1.0  # a call that lingers longer is said to hang


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds over all tools."""

    max_running: int = 16
    max_running_per_agent: int = 8
    max_processes: int = 4
    max_lingering: int = 16  # calls that hang and have a worker in their place
    max_waiting: int = 10_000
    max_waiting_per_agent: int = 1_000
    max_failures: int = 5  # in a row, before the circuit breaker opens; 0: never
    cooldown_s: float = 30.0


class Schedule:
    """See the module."""

    def __init__(self, limits: Limits, policy: Policy) -> None:
        self.limits = limits
        self._configured = GuardedPolicy(policy)
        self._ranking = self._configured.select(QueueLoad(0, limits.max_running, 0))
        self._lanes: dict[str, Lane] = {}
        self._agents: dict[int, FlowShare] = {}
        self._groups: dict[str, FlowShare] = {}
        self._floors: dict[str, float] = {}  # by group: virtual time of the member served last
        self._floor = 0.0  # the same of the groups
        self._holders: dict[str, Turn] = {}
        self._turns: dict[int, Turn] = {}
        self._running: Counter[int] = Counter()  # by pid
        self._waiting: Counter[int] = Counter()  # by pid
        self._busy_groups: Counter[str] = Counter()  # their calls
        self.num_running = 0
        self.num_waiting = 0
        self.num_lingering = 0
        self._num_processes = 0
        self._arrivals = count()

    def __repr__(self) -> str:
        return (
            f"<Schedule: {self.num_waiting} waiting, {self.num_running} running, "
            f"{self.num_lingering} lingering>"
        )

    # --- looking in --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Turn]:
        return iter(tuple(self._turns.values()))

    def lane(self, name: str) -> Lane:
        """The lane of that name, made if it is new."""
        lane = self._lanes.get(name)
        if lane is None:
            breaker = Breaker(self.limits.max_failures, self.limits.cooldown_s)
            lane = self._lanes[name] = Lane(name, breaker, self._ranking)
        return lane

    # --- calls come and go -------------------------------------------------------------------

    def submit(
        self,
        tool: Tool,
        name: str,
        *,
        pid: int,
        agent: tuple[str, float],
        group: tuple[str, float],
        priority: int,
        now: float,
    ) -> Turn:
        """A call waits from now on. `agent` and `group` are names and weights.

        Raises:
            Overloaded: too many calls wait, of all or of this agent.
            ToolUnavailable: the tool failed too often of late, or hangs.
        """
        self._refuse_crowds(pid)
        lane = self.lane(name)
        if refusal := self.refusal(lane, tool, pid, now):
            raise refusal
        if tool.rate is None:
            lane.bucket = None
        elif lane.bucket is None or lane.bucket.rate != tool.rate:
            lane.bucket = TokenBucket(tool.rate, now)
        group_flow = self._flow(self._groups, group[0], group)
        agent_flow = self._flow(self._agents, pid, agent)
        group_flow.enter(self._floor)
        agent_flow.enter(self._floors.get(group[0], 0.0))
        seq = next(self._arrivals)
        turn = Turn(
            seq, pid, tool, lane, agent_flow, group_flow, group[0], priority, seq, queued_at=now
        )
        lane.breaker.admit(pid, turn.id)
        self._turns[turn.id] = turn
        self._waiting[pid] += 1
        self.num_waiting += 1
        self._busy_groups[group[0]] += 1
        lane.push(turn)
        return turn

    def refusal(self, lane: Lane, tool: Tool, pid: int, now: float) -> ToolUnavailable | None:
        """Why calls of this agent are refused at present, those that wait included."""
        if (wait_s := lane.breaker.refused_for(pid, now)) > 0:
            return ToolUnavailable(tool.name, "failed too often of late", wait_s)
        for resource in tool.exclusive:
            holder = self._holders.get(resource)
            if holder is not None and self._hangs(holder, now):
                told = f"needs {resource!r}, which a call of {holder.tool.id} holds that hangs"
                return ToolUnavailable(tool.name, told, HANG_GRACE_S)
        if tool.parallel is not None and lane.num_lingering >= tool.parallel:
            hanging = [t for t in self._turns.values() if t.lane is lane and self._hangs(t, now)]
            if len(hanging) >= tool.parallel:
                told = f"runs {tool.parallel} at a time, and as many calls of it hang"
                return ToolUnavailable(tool.name, told, HANG_GRACE_S)
        return None

    def pick(self, now: float) -> Turn | None:
        """Start the best call that may run; None if there is none. Call it again until then."""
        if not self._has_slot() or not self.num_waiting:
            return None
        self._adapt()
        claimed: set[str] = set()
        for _, turn in sorted(self._heads(now), key=lambda head: (head[0], head[1].seq)):
            needs = turn.tool.exclusive
            if claimed.intersection(needs) or any(one in self._holders for one in needs):
                claimed.update(needs)
            elif self._has_room(turn, now):
                self._start(turn, now)
                return turn
        return None

    def take_unranked(self) -> list[tuple[Turn, KernelError]]:
        """The waiting calls that the policy failed to rank lately, to be refused."""
        return [
            (turn, error)
            for turn, error in self._ranking.take_unranked()
            if isinstance(turn, Turn) and turn.state is TurnState.WAITING
        ]

    def next_at(self, now: float) -> float | None:
        """When a rate lets the next call begin; None: only a call's end can."""
        waits = [
            lane.bucket.ready_in(now)
            for lane in self._lanes.values()
            if lane.num_waiting and lane.bucket is not None
        ]
        waits = [wait for wait in waits if wait > 0]
        return now + min(waits) if waits else None

    def linger(self, turn: Turn, now: float) -> None:
        """The call was answered and what it started goes on: its worker is replaced.

        It still counts for its tool, and holds its resources.
        """
        self._settle(turn, now)
        self._leave_slot(turn)
        turn.state, turn.since = TurnState.LINGERING, now
        turn.lane.num_lingering += 1
        self.num_lingering += 1

    def end(self, turn: Turn, now: float) -> None:
        """The call is over, wherever it was. Frees all that it held. Idempotent."""
        if turn.state is TurnState.ENDED:
            return
        was, turn.state = turn.state, TurnState.ENDED
        del self._turns[turn.id]
        if was is TurnState.WAITING:
            _count_down(self._waiting, turn.pid)
            self.num_waiting -= 1
            turn.lane.leave(turn)
        else:
            if was is TurnState.RUNNING:
                self._settle(turn, now)
                self._leave_slot(turn)
            else:
                turn.lane.num_lingering -= 1
                self.num_lingering -= 1
            turn.lane.num_running -= 1
            self._num_processes -= turn.tool.isolation == "process"
            for resource in turn.tool.exclusive:
                self._holders.pop(resource, None)
        _count_down(self._busy_groups, turn.group_name)
        turn.lane.breaker.withdraw(turn.pid, turn.id)
        turn.agent.leave()
        turn.group.leave()

    def forget(self, pid: int) -> None:
        """An agent exited, and all its calls have ended."""
        self._agents.pop(pid, None)
        for lane in self._lanes.values():
            lane.breaker.forget(pid)

    def drop_idle(self, keep: Callable[[str], bool]) -> None:
        """Let go of the lanes of tools that are no more."""
        for name, lane in tuple(self._lanes.items()):
            if not (lane.num_waiting or lane.num_running or keep(name)):
                del self._lanes[name]

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        states = Counter(turn.state for turn in self._turns.values())
        running, waiting = states[TurnState.RUNNING], states[TurnState.WAITING]
        if (running, waiting) != (self.num_running, self.num_waiting):
            raise KernelBug(f"{self!r} has {running} running and {waiting} waiting turns")
        if running > self.limits.max_running:
            raise KernelBug(f"{running} tool calls run; {self.limits.max_running} may")
        held = Counter(
            resource
            for turn in self._turns.values()
            if turn.state in (TurnState.RUNNING, TurnState.LINGERING)
            for resource in turn.tool.exclusive
        )
        if any(number > 1 for number in held.values()) or held.keys() != self._holders.keys():
            raise KernelBug(f"exclusive resources held: {dict(held)}; filed: {self._holders}")
        for pid, number in self._running.items():
            if number > self.limits.max_running_per_agent:
                raise KernelBug(f"agent {pid} runs {number} tool calls")

    # --- inside ------------------------------------------------------------------------------

    def _heads(self, now: float) -> Iterator[tuple[Rank, Turn]]:
        """The best call of each lane, with its rank; one that waited too long goes first."""
        limit, bound_s = self.limits.max_running_per_agent, self._ranking.max_wait_s
        full = {pid for pid, number in self._running.items() if number >= limit}
        for lane in self._lanes.values():
            if not lane.num_waiting:
                continue
            oldest = lane.oldest() if bound_s is not None else None
            if (
                oldest is not None
                and bound_s is not None
                and now - oldest.queued_at > bound_s
                and oldest.pid not in full
            ):
                yield (-inf, oldest.queued_at), oldest
            elif (head := lane.best(full)) is not None:
                yield head

    def _has_slot(self) -> bool:
        limits = self.limits
        stuck = max(0, self.num_lingering - limits.max_lingering)
        return self.num_running + stuck < limits.max_running

    def _has_room(self, turn: Turn, now: float) -> bool:
        tool, lane = turn.tool, turn.lane
        return (
            (tool.parallel is None or lane.num_running < tool.parallel)
            and (tool.isolation != "process" or self._num_processes < self.limits.max_processes)
            and (lane.bucket is None or lane.bucket.ready_in(now) <= 0)
        )

    def _start(self, turn: Turn, now: float) -> None:
        turn.state, turn.since = TurnState.RUNNING, now
        lane = turn.lane
        _count_down(self._waiting, turn.pid)
        self.num_waiting -= 1
        self._running[turn.pid] += 1
        self.num_running += 1
        self._num_processes += turn.tool.isolation == "process"
        lane.leave(turn)
        lane.num_running += 1
        if lane.bucket is not None:
            lane.bucket.take(now)
        for resource in turn.tool.exclusive:
            self._holders[resource] = turn
        group = turn.group_name
        self._floor = max(self._floor, turn.group.virtual_time)
        self._floors[group] = max(self._floors.get(group, 0.0), turn.agent.virtual_time)
        turn.charged_ms = 1e3 * lane.mean_s
        self._charge(turn, turn.charged_ms)

    def _leave_slot(self, turn: Turn) -> None:
        was_full = self._running[turn.pid] >= self.limits.max_running_per_agent
        _count_down(self._running, turn.pid)
        self.num_running -= 1
        if was_full:
            for lane in self._lanes.values():
                lane.refile(turn.pid)

    def _settle(self, turn: Turn, now: float) -> None:
        """Charge what the call really took, instead of the guess."""
        took_s = now - turn.since
        turn.lane.learn(took_s)
        self._charge(turn, 1e3 * took_s - turn.charged_ms)

    def _charge(self, turn: Turn, cost_ms: float) -> None:
        turn.agent.charge(cost_ms)
        turn.group.charge(cost_ms)

    def _adapt(self) -> None:
        """Follow the policy's choice for this load."""
        load = QueueLoad(self.num_waiting, self.limits.max_running, len(self._busy_groups))
        chosen = self._configured.select(load)
        if chosen is not self._ranking:
            self._ranking = chosen
            for lane in self._lanes.values():
                lane.use(chosen)

    def _hangs(self, turn: Turn, now: float) -> bool:
        return turn.state is TurnState.LINGERING and now - turn.since >= HANG_GRACE_S

    def _flow(self, flows: dict[K, FlowShare], key: K, named: tuple[str, float]) -> FlowShare:
        flow = flows.get(key)
        if flow is None:
            flow = flows[key] = FlowShare(*named)
        return flow

    def _refuse_crowds(self, pid: int) -> None:
        limits = self.limits
        if self.num_waiting >= limits.max_waiting:
            retry_after_s = self._time_for(self.num_waiting, self.num_running)
            raise Overloaded("the queue of tool calls", limits.max_waiting, retry_after_s)
        if self._waiting[pid] >= limits.max_waiting_per_agent:
            queue, num_running = f"the queue of agent {pid}'s tool calls", self._running[pid]
            retry_after_s = self._time_for(self._waiting[pid], num_running)
            raise Overloaded(queue, limits.max_waiting_per_agent, retry_after_s)

    def _time_for(self, num_waiting: int, num_running: int) -> float:
        """Seconds that so many calls will take, at the mean of the tools that are waited for."""
        work_s = sum(lane.num_waiting * lane.mean_s for lane in self._lanes.values())
        mean_s = work_s / max(1, self.num_waiting)
        return (num_waiting + num_running / 2) * mean_s / max(1, num_running)


def _count_down(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
