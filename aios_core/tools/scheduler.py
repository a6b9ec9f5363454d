"""Decide which tool call runs next. Decides only: uses no clock, no thread, no tool.

The waiting calls of all tools are ranked by the kernel's scheduling policy, with
milliseconds of running tools as the service that agents and groups receive. The
best-ranked call that may run, runs:

- at most `max_running` calls at once, and `max_running_per_agent` of one agent, so
  that long calls of a heavy agent cannot take every worker;
- at most `parallel` of one tool, at its rate, and `max_processes` in processes;
- all of a call's exclusive resources at once or none, so there is no deadlock. A
  call that waits only for resources *claims* them: no lower-ranked call may take one
  first, so it does not starve.

Invariants (see `check`): a resource has at most one holder; no limit is exceeded;
the counters agree with the states of the tickets.
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
from aios_core.tools.circuit_breaker import CircuitBreaker
from aios_core.tools.tool import Tool
from aios_core.tools.tool_queue import TicketState, ToolQueue, ToolTicket

K = TypeVar("K")

HANG_GRACE_S = 1.0  # a call that lingers longer counts as hanging


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """The bounds over all tools of a kernel."""

    max_running: int = 16
    max_running_per_agent: int = 8
    max_processes: int = 4
    max_lingering: int = 16  # answered calls that still run and have a thread in their place
    max_waiting: int = 10_000
    max_waiting_per_agent: int = 1_000
    max_failures: int = 5  # in a row, before the circuit breaker opens; 0: never
    cooldown_s: float = 30.0


class ToolScheduler:
    """The waiting and running tool calls of a kernel, and the decision which one runs next."""

    def __init__(self, limits: ToolLimits, policy: Policy) -> None:
        self.limits = limits
        self._configured = GuardedPolicy(policy)
        self._ranking = self._configured.select(QueueLoad(0, limits.max_running, 0))
        self._queues: dict[str, ToolQueue] = {}
        self._agents: dict[int, FlowShare] = {}
        self._groups: dict[str, FlowShare] = {}
        self._floors: dict[str, float] = {}  # by group: virtual time of the member served last
        self._floor = 0.0  # virtual time of the group served last
        self._holders: dict[str, ToolTicket] = {}
        self._tickets: dict[int, ToolTicket] = {}
        self._running: Counter[int] = Counter()  # by pid
        self._waiting: Counter[int] = Counter()  # by pid
        self._busy_groups: Counter[str] = Counter()  # calls by group
        self.num_running = 0
        self.num_waiting = 0
        self.num_lingering = 0
        self._num_processes = 0
        self._arrivals = count()

    def __repr__(self) -> str:
        return (
            f"<ToolScheduler: {self.num_waiting} waiting, {self.num_running} running, "
            f"{self.num_lingering} lingering>"
        )

    # --- access ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ToolTicket]:
        return iter(tuple(self._tickets.values()))

    def queue(self, name: str) -> ToolQueue:
        """Return the queue of that name, and create it if there is none."""
        queue = self._queues.get(name)
        if queue is None:
            breaker = CircuitBreaker(self.limits.max_failures, self.limits.cooldown_s)
            queue = self._queues[name] = ToolQueue(name, breaker, self._ranking)
        return queue

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
    ) -> ToolTicket:
        """Add a waiting call.

        Args:
            tool: the tool to run.
            name: of the tool's queue.
            pid: of the calling agent.
            agent: the name and the weight of the agent.
            group: the name and the weight of its group.
            priority: of the agent.
            now: seconds on the kernel's clock.

        Raises:
            Overloaded: too many calls wait, of all agents or of this one.
            ToolUnavailable: the tool failed too often recently, or hangs.
        """
        self._require_room(pid)
        queue = self.queue(name)
        if refusal := self.refusal(queue, tool, pid, now):
            raise refusal
        if tool.rate is None:
            queue.bucket = None
        elif queue.bucket is None or queue.bucket.rate != tool.rate:
            queue.bucket = TokenBucket(tool.rate, now)
        group_flow = self._flow(self._groups, group[0], group)
        agent_flow = self._flow(self._agents, pid, agent)
        group_flow.enter(self._floor)
        agent_flow.enter(self._floors.get(group[0], 0.0))
        seq = next(self._arrivals)
        ticket = ToolTicket(
            seq, pid, tool, queue, agent_flow, group_flow, group[0], priority, seq, queued_at=now
        )
        queue.breaker.begin(pid, ticket.id)
        self._tickets[ticket.id] = ticket
        self._waiting[pid] += 1
        self.num_waiting += 1
        self._busy_groups[group[0]] += 1
        queue.push(ticket)
        return ticket

    def refusal(self, queue: ToolQueue, tool: Tool, pid: int, now: float) -> ToolUnavailable | None:
        """Return why calls of this agent are refused now, including waiting ones, or None."""
        if (wait_s := queue.breaker.refused_for(pid, now)) > 0:
            return ToolUnavailable(tool.name, "failed too often recently", wait_s)
        for resource in tool.exclusive:
            holder = self._holders.get(resource)
            if holder is not None and self._hangs(holder, now):
                reason = f"needs {resource!r}, which a hanging call of {holder.tool.id} holds"
                return ToolUnavailable(tool.name, reason, HANG_GRACE_S)
        if tool.parallel is not None and queue.num_lingering >= tool.parallel:
            hanging = [
                t for t in self._tickets.values() if t.queue is queue and self._hangs(t, now)
            ]
            if len(hanging) >= tool.parallel:
                reason = f"runs {tool.parallel} calls at a time, and as many of them hang"
                return ToolUnavailable(tool.name, reason, HANG_GRACE_S)
        return None

    def pick(self, now: float) -> ToolTicket | None:
        """Start the best call that may run; None if there is none. Call it until None."""
        if not self._has_slot() or not self.num_waiting:
            return None
        self._adapt()
        claimed: set[str] = set()  # by better-ranked calls: taking them now would starve those
        for _, ticket in sorted(self._heads(now), key=lambda head: (head[0], head[1].seq)):
            needs = ticket.tool.exclusive
            if claimed.intersection(needs) or any(one in self._holders for one in needs):
                claimed.update(needs)
            elif self._has_room(ticket, now):
                self._start(ticket, now)
                return ticket
        return None

    def take_unranked(self) -> list[tuple[ToolTicket, KernelError]]:
        """Return, once each, the waiting calls that the policy could not rank, to refuse them."""
        return [
            (ticket, error)
            for ticket, error in self._ranking.take_unranked()
            if isinstance(ticket, ToolTicket) and ticket.state is TicketState.WAITING
        ]

    def next_at(self, now: float) -> float | None:
        """Return when a rate limit allows the next call; None if only the end of a call can."""
        waits = [
            queue.bucket.ready_in(now)
            for queue in self._queues.values()
            if queue.num_waiting and queue.bucket is not None
        ]
        waits = [wait for wait in waits if wait > 0]
        return now + min(waits) if waits else None

    def mark_lingering(self, ticket: ToolTicket, now: float) -> None:
        """Record that a call was answered but still runs: another may have its slot.

        It still counts for its tool and holds its resources, because its code still runs.
        """
        self._settle(ticket, now)
        self._leave_slot(ticket)
        ticket.state, ticket.since = TicketState.LINGERING, now
        ticket.queue.num_lingering += 1
        self.num_lingering += 1

    def end(self, ticket: ToolTicket, now: float) -> None:
        """End a call in any state and free all that it holds. Idempotent."""
        if ticket.state is TicketState.ENDED:
            return
        was, ticket.state = ticket.state, TicketState.ENDED
        del self._tickets[ticket.id]
        if was is TicketState.WAITING:
            _count_down(self._waiting, ticket.pid)
            self.num_waiting -= 1
            ticket.queue.leave(ticket)
        else:
            if was is TicketState.RUNNING:
                self._settle(ticket, now)
                self._leave_slot(ticket)
            else:
                ticket.queue.num_lingering -= 1
                self.num_lingering -= 1
            ticket.queue.num_running -= 1
            self._num_processes -= ticket.tool.isolation == "process"
            for resource in ticket.tool.exclusive:
                self._holders.pop(resource, None)
        _count_down(self._busy_groups, ticket.group_name)
        ticket.queue.breaker.withdraw(ticket.pid, ticket.id)
        ticket.agent.leave()
        ticket.group.leave()

    def forget(self, pid: int) -> None:
        """Drop what is kept for an exited agent without calls."""
        self._agents.pop(pid, None)
        for queue in self._queues.values():
            queue.breaker.forget(pid)

    def drop_idle(self, keep: Callable[[str], bool]) -> None:
        """Drop the empty queues of tools that are no longer offered."""
        for name, queue in tuple(self._queues.items()):
            if not (queue.num_waiting or queue.num_running or keep(name)):
                del self._queues[name]

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        states = Counter(ticket.state for ticket in self._tickets.values())
        running, waiting = states[TicketState.RUNNING], states[TicketState.WAITING]
        if (running, waiting) != (self.num_running, self.num_waiting):
            raise KernelBug(f"{self!r} has {running} running and {waiting} waiting tickets")
        if running > self.limits.max_running:
            raise KernelBug(f"{running} tool calls run; allowed: {self.limits.max_running}")
        held = Counter(
            resource
            for ticket in self._tickets.values()
            if ticket.state in (TicketState.RUNNING, TicketState.LINGERING)
            for resource in ticket.tool.exclusive
        )
        if any(number > 1 for number in held.values()) or held.keys() != self._holders.keys():
            raise KernelBug(f"exclusive resources held: {dict(held)}; filed: {self._holders}")
        for pid, number in self._running.items():
            if number > self.limits.max_running_per_agent:
                raise KernelBug(f"agent {pid} runs {number} tool calls")

    # --- inside ------------------------------------------------------------------------------

    def _heads(self, now: float) -> Iterator[tuple[Rank, ToolTicket]]:
        """Yield the best call of each queue with its rank; overdue calls rank first."""
        limit, bound_s = self.limits.max_running_per_agent, self._ranking.max_wait_s
        # Calls of agents at their limit are passed over, so that they do not block their queue.
        full = {pid for pid, number in self._running.items() if number >= limit}
        for queue in self._queues.values():
            if not queue.num_waiting:
                continue
            oldest = queue.oldest() if bound_s is not None else None
            if (
                oldest is not None
                and bound_s is not None
                and now - oldest.queued_at > bound_s
                and oldest.pid not in full
            ):
                yield (-inf, oldest.queued_at), oldest
            elif (head := queue.best(full)) is not None:
                yield head

    def _has_slot(self) -> bool:
        limits = self.limits
        # Each lingering call keeps a thread; beyond the bound they use up slots, or a tool that
        # always hangs would make the kernel start threads without end.
        stuck = max(0, self.num_lingering - limits.max_lingering)
        return self.num_running + stuck < limits.max_running

    def _has_room(self, ticket: ToolTicket, now: float) -> bool:
        tool, queue = ticket.tool, ticket.queue
        return (
            (tool.parallel is None or queue.num_running < tool.parallel)
            and (tool.isolation != "process" or self._num_processes < self.limits.max_processes)
            and (queue.bucket is None or queue.bucket.ready_in(now) <= 0)
        )

    def _start(self, ticket: ToolTicket, now: float) -> None:
        ticket.state, ticket.since = TicketState.RUNNING, now
        queue = ticket.queue
        _count_down(self._waiting, ticket.pid)
        self.num_waiting -= 1
        self._running[ticket.pid] += 1
        self.num_running += 1
        self._num_processes += ticket.tool.isolation == "process"
        queue.leave(ticket)
        queue.num_running += 1
        if queue.bucket is not None:
            queue.bucket.take(now)
        for resource in ticket.tool.exclusive:
            self._holders[resource] = ticket
        group = ticket.group_name
        self._floor = max(self._floor, ticket.group.virtual_time)
        self._floors[group] = max(self._floors.get(group, 0.0), ticket.agent.virtual_time)
        # Charge the expected time at once: an agent that starts many calls at a time must not
        # rank first until they end. `_settle` replaces it by the measured time.
        ticket.charged_ms = 1e3 * queue.mean_s
        self._charge(ticket, ticket.charged_ms)

    def _leave_slot(self, ticket: ToolTicket) -> None:
        was_full = self._running[ticket.pid] >= self.limits.max_running_per_agent
        _count_down(self._running, ticket.pid)
        self.num_running -= 1
        if was_full:  # `best` has passed this agent over; consider its calls again
            for queue in self._queues.values():
                queue.reconsider(ticket.pid)

    def _settle(self, ticket: ToolTicket, now: float) -> None:
        """Charge the measured time of a call in place of the expected one."""
        took_s = now - ticket.since
        ticket.queue.record_duration(took_s)
        self._charge(ticket, 1e3 * took_s - ticket.charged_ms)

    def _charge(self, ticket: ToolTicket, cost_ms: float) -> None:
        ticket.agent.charge(cost_ms)
        ticket.group.charge(cost_ms)

    def _adapt(self) -> None:
        """Switch to the ranking that the policy selects for the present load."""
        load = QueueLoad(self.num_waiting, self.limits.max_running, len(self._busy_groups))
        chosen = self._configured.select(load)
        if chosen is not self._ranking:
            self._ranking = chosen
            for queue in self._queues.values():
                queue.reorder(chosen)

    def _hangs(self, ticket: ToolTicket, now: float) -> bool:
        return ticket.state is TicketState.LINGERING and now - ticket.since >= HANG_GRACE_S

    def _flow(self, flows: dict[K, FlowShare], key: K, named: tuple[str, float]) -> FlowShare:
        flow = flows.get(key)
        if flow is None:
            flow = flows[key] = FlowShare(*named)
        return flow

    def _require_room(self, pid: int) -> None:
        limits = self.limits
        if self.num_waiting >= limits.max_waiting:
            retry_after_s = self._time_for(self.num_waiting, self.num_running)
            raise Overloaded("the queue of tool calls", limits.max_waiting, retry_after_s)
        if self._waiting[pid] >= limits.max_waiting_per_agent:
            queue, num_running = f"the queue of agent {pid}'s tool calls", self._running[pid]
            retry_after_s = self._time_for(self._waiting[pid], num_running)
            raise Overloaded(queue, limits.max_waiting_per_agent, retry_after_s)

    def _time_for(self, num_waiting: int, num_running: int) -> float:
        """Estimate the seconds until so many calls have run, from mean times of their tools."""
        work_s = sum(queue.num_waiting * queue.mean_s for queue in self._queues.values())
        mean_s = work_s / max(1, self.num_waiting)
        return (num_waiting + num_running / 2) * mean_s / max(1, num_running)


def _count_down(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
