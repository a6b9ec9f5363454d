"""Decide which call runs next, where, and which gives way.

This module only decides: it starts nothing, reads no clock and calls no model, so
every rule is tested as plain data. `dispatcher` acts.

A call waits in the queue of its route (the cores that can serve it). `pick_next`
takes the best-ranked call among the routes that have a free slot; `progressed`
says when a running call has used its quantum and a better one waits. New agents
are let in only when their context fits (see `admission`); until then a call of an
active agent may overtake theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from aios_core.core import Core, CoreLoad, load_of
from aios_core.errors import KernelBug, SchedulingPolicyError
from aios_core.process import AgentProcess
from aios_core.queueing.policy import (
    OUTPUT_COST,
    PROMPT_COST,
    FlowShare,
    Policy,
    QueueLoad,
    Rank,
    Waiting,
)
from aios_core.queueing.ranked_queue import GuardedPolicy, RankedQueue
from aios_core.scheduler.admission import Admission, Plan
from aios_core.scheduler.protocols import Pool
from aios_core.scheduler.waiting_calls import AtTail, Hold, Route, RouteQueue, Ticket, WaitingCalls
from aios_core.syscalls import Syscall, SyscallState

RECONSIDER_S = 0.1  # an adaptive policy looks at the load no more often than that
ADMIT_WITHIN_S = 60.0  # once memory bars the best new call for so long, nothing overtakes it
UNDISTURBED = 8  # tokens that a call generates in peace each time that it has a slot
WAITING = (SyscallState.READY, SyscallState.SUSPENDED)


@dataclass(frozen=True, slots=True)
class Decision:
    """Run this call on that core."""

    ticket: Ticket
    core: Core


class Scheduler:
    """The waiting and the running calls of a kernel.

    Invariants (see `check`): a ticket is in exactly one of waiting, held and
    running; waiting and held ones are READY or SUSPENDED, running ones RUNNING; a
    flow counts its calls right.
    """

    def __init__(self, policy: Policy, admission: Admission | None = None) -> None:
        self._configured = GuardedPolicy(policy)
        self.unranked = self._configured.unranked  # empty: `take_unranked` has nothing to return
        self._policy = self._configured  # what it selected for the present load
        self.admission = admission or Admission()
        self._waiting = WaitingCalls(self._policy, self.admission)
        self._running: dict[int, Ticket] = {}
        self._agents: dict[int, FlowShare] = {}
        self._groups: dict[str, FlowShare] = {}
        self._floor = 0.0  # virtual time of the group that was served last
        self._seqs = count()
        self._num_yielding = 0
        self._adapted_at = float("-inf")

    def __repr__(self) -> str:
        return (
            f"<Scheduler {self.policy.name}: {self.num_waiting} waiting, "
            f"{len(self._running)} running>"
        )

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self._policy.policy

    @property
    def num_waiting(self) -> int:
        """Held ones included."""
        return self._waiting.num_waiting

    @property
    def num_ready(self) -> int:
        """Calls that wait for nothing but a slot."""
        return self._waiting.num_ready

    @property
    def num_running(self) -> int:
        return len(self._running)

    def waiting(self) -> Iterator[Ticket]:
        """All calls without a slot, held ones included."""
        return iter(self._waiting)

    def share_of(self, process: AgentProcess) -> tuple[FlowShare, FlowShare]:
        """The service accounts of an agent and of its group."""
        group = self._groups.get(process.group.name)
        if group is None:
            group = FlowShare(process.group.name, process.group.weight)
            self._groups[process.group.name] = group
        agent = self._agents.get(process.pid)
        if agent is None:
            agent = FlowShare(process.name, process.weight)
            self._agents[process.pid] = agent
            group.num_members += 1
        return agent, group

    def forget(self, process: AgentProcess) -> None:
        """The agent is gone and has no calls left."""
        if self._agents.pop(process.pid, None) is not None:
            self._groups[process.group.name].num_members -= 1
        self.admission.forget(process.pid)

    # --- calls come and go -------------------------------------------------------------------

    def submit(
        self,
        syscall: Syscall,
        process: AgentProcess,
        route: Route,
        *,
        prompt_tokens: int,
        max_tokens: int,
        now: float,
        expect_answer: Callable[[], int] | None = None,
    ) -> Ticket:
        """Add a new call at the tail of the queue of its route.

        `expect_answer` estimates the answer's tokens; None: as many as it may have.
        """
        agent, group = self.share_of(process)
        ticket = Ticket(syscall, agent, group, route, prompt_tokens, max_tokens, expect_answer)
        ticket.seq, ticket.queued_at = next(self._seqs), now
        group.enter(self._floor)
        agent.enter(group.floor)
        self._begin_to_wait(ticket, now)
        return ticket

    def pick_next(self, pool: Pool, now: float) -> Decision | None:
        """Give a free slot to the best waiting call, if there are both."""
        self._adapt(now)
        found: list[tuple[Ticket, Core]] = []
        for route, waiting in self._waiting.queues.items():
            if not waiting or (core := pool.pick(route)) is None:
                continue
            if waiting.returning:
                self._evict_what_does_not_fit(waiting, core, now)
            ticket = self._front(waiting, core, now)
            if ticket is not None:
                found.append((ticket, core))
        if not found:
            return None
        ticket, core = (
            found[0]
            if len(found) == 1  # nearly always: a rank costs more than all the rest
            else min(found, key=lambda one: self._urgency(one[0], now))
        )
        core = self._nearest(ticket, core, pool)
        pool.used(core)
        self._start(ticket, core, now)
        return Decision(ticket, core)

    def progressed(self, ticket: Ticket, num_tokens: int, now: float) -> bool:
        """Account for generated tokens. True if the call should now be preempted."""
        self._charge(ticket, OUTPUT_COST * num_tokens)
        quantum = self._policy.quantum
        if quantum is None or ticket.core is None:
            return False
        ticket.quantum_used += num_tokens
        if ticket.quantum_used < quantum or ticket.is_yielding:
            return False
        if not ticket.core.capabilities.preemptible or not self._is_outranked(
            ticket, ticket.core, now
        ):
            return False
        ticket.is_yielding = True
        self._num_yielding += 1
        return True

    def victims(self, now: float) -> list[Ticket]:
        """The running calls that are to give way at once, each to the best call of a route."""
        found = []
        for waiting in self._waiting.queues.values():
            if waiting and (victim := self._victim_for(waiting, now)):
                victim.is_yielding = True
                self._num_yielding += 1
                found.append(victim)
        return found

    def wanted_cores(self) -> set[Core]:
        """The cores that a waiting call could go to."""
        return {
            core for route, waiting in self._waiting.queues.items() if waiting for core in route
        }

    def preempted(self, ticket: Ticket, route: Route, now: float) -> None:
        """A running call gave up its slot; it waits at the tail, for the cores of `route`."""
        self._leave_core(ticket)
        ticket.syscall.move_to(SyscallState.SUSPENDED, now)
        ticket.syscall.num_preemptions += 1
        ticket.route = route
        if self._policy.takes_turns:
            ticket.seq = next(self._seqs)
        self._begin_to_wait(ticket, now)

    def retry(self, ticket: Ticket, route: Route, now: float) -> None:
        """A running call failed and is to be tried again; it keeps its place in the queue."""
        self._leave_core(ticket)
        self._leave_home(ticket, now)
        ticket.syscall.move_to(SyscallState.READY, now)
        ticket.route = route
        self._waiting.join(ticket)

    def finish(
        self, ticket: Ticket, outcome: SyscallState, now: float, cost: float | None = None
    ) -> None:
        """A call, waiting or running, has its answer. `cost` is its true service, if known."""
        if ticket.syscall.id in self._running:
            self._leave_core(ticket)
        else:
            self._waiting.leave(ticket)
        self._leave_home(ticket, now)
        if cost is not None and cost != ticket.charged:
            self._charge(ticket, cost - ticket.charged)
        ticket.agent.leave()
        ticket.group.leave()
        ticket.syscall.move_to(outcome, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Forget a waiting call, which goes on without its ticket."""
        self._waiting.leave(ticket)
        self._leave_home(ticket, now)
        ticket.agent.leave()
        ticket.group.leave()

    # --- calls are set aside -----------------------------------------------------------------

    def hold(self, ticket: Ticket, reason: Hold) -> None:
        """Do not serve a waiting call while any reason to hold it stands; it keeps its place."""
        self._waiting.hold(ticket, reason)

    def release(self, ticket: Ticket, reason: Hold) -> None:
        """A reason to hold a call is gone. It may be served once none is left."""
        self._waiting.release(ticket, reason)

    def new_queue(self) -> RankedQueue[Ticket]:
        """A queue for held calls, in the order of the policy in use."""
        return self._waiting.new_queue()

    def first_of(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        """The most urgent call of a queue, which it keeps."""
        return self._foremost(queue, now)

    def urgency(self, ticket: Ticket, now: float) -> Rank:
        """The place of a call among those of all routes, smallest first."""
        return self._urgency(ticket, now)

    def take_unranked(self) -> list[tuple[Ticket, SchedulingPolicyError]]:
        """Return the waiting calls that the policy failed to rank lately, to be refused."""
        return [
            (call, error)
            for call, error in self._policy.take_unranked()
            if isinstance(call, Ticket) and call.syscall.state in WAITING
        ]

    def has(self, ticket: Ticket) -> bool:
        """Return whether a call has its place: in a queue, among the held ones, or with a slot."""
        return ticket in self._waiting or self._running.get(ticket.syscall.id) is ticket

    def reroute(self, ticket: Ticket, route: Route) -> None:
        """Let a waiting call be served by other cores; it keeps its place."""
        self._waiting.reroute(ticket, route)

    # --- inside ------------------------------------------------------------------------------

    def _begin_to_wait(self, ticket: Ticket, now: float) -> None:
        ticket.queued_at = ticket.syscall.queued_at = now
        self._waiting.join(ticket)

    def _start(self, ticket: Ticket, core: Core, now: float) -> None:
        self._waiting.leave(ticket)
        self._floor = max(self._floor, ticket.group.virtual_time)
        ticket.group.floor = max(ticket.group.floor, ticket.agent.virtual_time)
        if ticket.charged == 0:
            self._charge(ticket, PROMPT_COST * ticket.prompt_tokens)
        ticket.syscall.move_to(SyscallState.RUNNING, now)
        ticket.core = core
        ticket.quantum_used = 0
        self._running[ticket.syscall.id] = ticket
        if ticket.home is not core:
            self._leave_home(ticket, now)
            load = load_of(core)
            if load.kv_capacity is not None:
                ticket.home = core
                context = _context_of(ticket)
                self.admission.apply(
                    core, self.admission.plan(core, load, ticket.syscall.pid, context, now)
                )
                self.admission.enter(core, load, ticket.syscall.pid, context)

    def _leave_core(self, ticket: Ticket) -> None:
        del self._running[ticket.syscall.id]
        ticket.core = None
        if ticket.is_yielding:
            ticket.is_yielding = False
            self._num_yielding -= 1

    def _leave_home(self, ticket: Ticket, now: float) -> None:
        """The call no longer counts on the core where its context is, or was."""
        if ticket.home is not None:
            context = ticket.prompt_tokens + ticket.syscall.num_tokens
            self.admission.leave(ticket.home, ticket.syscall.pid, context, now)
            ticket.home = None

    def _charge(self, ticket: Ticket, cost: float) -> None:
        if not cost:
            return
        ticket.charged += cost
        ticket.agent.charge(cost)
        ticket.group.charge(cost)

    def _front(self, waiting: RouteQueue, core: Core, now: float) -> Ticket | None:
        """The most urgent call of a route that the core has room for. Changes nothing."""
        if not waiting.returning:
            first = self._foremost(waiting.arriving, now)
            return first if first and self._fits(first, core, now) else None
        returning = self._foremost(waiting.returning, now)
        if returning and self._loses_its_place(returning, core, now):
            in_order = sorted(waiting.returning, key=lambda ticket: self._urgency(ticket, now))
            stay = (t for t in in_order if not self._loses_its_place(t, core, now))
            returning = next(stay, None)
        arriving = self._foremost(waiting.arriving, now)
        if arriving and now - arriving.queued_at > ADMIT_WITHIN_S:
            return arriving if self._fits(arriving, core, now) else None
        if arriving is None or returning is None:
            first, second = arriving or returning, None
        elif self._goes_ahead(returning, arriving, core, now):
            first, second = returning, arriving
        else:
            first, second = arriving, returning
        return next((t for t in (first, second) if t and self._fits(t, core, now)), None)

    def _loses_its_place(self, ticket: Ticket, core: Core, now: float) -> bool:
        """Return whether an active agent's call fits no longer where its context is."""
        elsewhere = (other for other in ticket.route if other is not core)
        return not self._fits(ticket, core, now) and not any(
            self.admission.is_active(other, ticket.syscall.pid) for other in elsewhere
        )

    def _evict_what_does_not_fit(self, waiting: RouteQueue, core: Core, now: float) -> None:
        """Let the foremost calls of active agents wait with the new ones' if they do not fit."""
        while ticket := self._foremost(waiting.returning, now):
            plan = self._plan(ticket, core, load_of(core), now)
            if plan.fits:
                return
            self.admission.apply(core, plan)
            if self._waiting.is_active(ticket):  # on another core
                return
            waiting.returning.remove(ticket)
            waiting.arriving.push(ticket)

    def _goes_ahead(self, warm: Ticket, new: Ticket, core: Core, now: float) -> bool:
        """Return whether an active agent's call goes before a new agent's."""
        if self._policy.warm_first and not self._is_overdue(new, now):
            return self.admission.is_pressed(core, load_of(core)) or (
                self._policy.rank(warm) < self._policy.rank(new)
            )
        return self._urgency(warm, now) < self._urgency(new, now)

    def _nearest(self, ticket: Ticket, core: Core, pool: Pool) -> Core:
        """The core that has the agent's context already, if it has a slot; else `core`."""
        if len(ticket.route) == 1 or self.admission.is_active(core, ticket.syscall.pid):
            return core
        warm = (c for c in ticket.route if self.admission.is_active(c, ticket.syscall.pid))
        return next((c for c in warm if pool.pick((c,))), core)

    def _foremost(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        if self._policy.max_wait_s is not None:
            oldest = queue.oldest()
            if oldest is not None and self._is_overdue(oldest, now):
                return oldest
        return queue.best()

    def _fits(self, ticket: Ticket, core: Core, now: float) -> bool:
        load = load_of(core)
        if load.kv_capacity is None:  # nothing is known to run full
            return True
        return self._plan(ticket, core, load, now).fits

    def _plan(self, ticket: Ticket, core: Core, load: CoreLoad, now: float) -> Plan:
        pid, context = ticket.syscall.pid, _context_of(ticket)
        return self.admission.plan(core, load, pid, context, now)

    def _urgency(self, call: Waiting, now: float) -> Rank:
        """Rank over all queues: overdue calls first, oldest first, then by the policy."""
        if self._is_overdue(call, now):
            return (0, call.seq)
        return (1, *self._policy.rank(call))

    def _is_overdue(self, call: Waiting, now: float) -> bool:
        bound = self._policy.max_wait_s
        return bound is not None and now - call.queued_at > bound

    def _is_outranked(self, running: Ticket, core: Core, now: float) -> bool:
        """Return whether a call that could take its slot ranks before a running one."""
        queues = [
            waiting for route, waiting in self._waiting.queues.items() if waiting and core in route
        ]
        if sum(map(len, queues)) <= self._num_yielding:
            return False
        fronts = [t for waiting in queues if (t := self._front(waiting, core, now))]
        at_tail = self._policy.takes_turns
        mine = self._policy.rank_running(AtTail(running, now) if at_tail else running)
        return any(self._urgency(ticket, now) < (1, *mine) for ticket in fronts)

    def _victim_for(self, waiting: RouteQueue, now: float) -> Ticket | None:
        """The worst-ranked running call that the best new or returning call may interrupt."""
        if not self._policy.ever_interrupts or self._num_yielding >= self.num_ready:
            return None
        fronts = [t for queue in (waiting.arriving, waiting.returning) if (t := queue.best())]
        for newcomer in sorted(fronts, key=self._policy.rank):
            candidates = [t for t in self._running.values() if self._may_take(newcomer, t, now)]
            if candidates:
                return max(candidates, key=self._policy.rank_running)
        return None

    def _may_take(self, waiting: Ticket, running: Ticket, now: float) -> bool:
        """Return whether a waiting call may take the slot of a running one at once."""
        return (
            not running.is_yielding
            and running.quantum_used >= UNDISTURBED
            and running.core in waiting.route
            and running.core.capabilities.preemptible
            and self._policy.interrupts(waiting, running)
            and self._fits(waiting, running.core, now)
        )

    def _adapt(self, now: float) -> None:
        """Let a policy that is made of others choose again."""
        if not self._configured.adapts or now - self._adapted_at < RECONSIDER_S:
            return
        self._adapted_at = now
        cores = {core for route in self._waiting.queues for core in route}
        load = QueueLoad(
            num_waiting=self.num_waiting,
            num_slots=sum(load_of(core).slots for core in cores),
            num_groups=sum(1 for group in self._groups.values() if group.num_members),
        )
        chosen = self._configured.select(load)
        if chosen is not self._policy:
            self._policy = chosen
            self._waiting.reorder(chosen)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        waiting = list(self.waiting())
        for ticket in waiting:
            if ticket.syscall.state not in WAITING:
                raise KernelBug(f"{ticket.syscall!r} is filed as waiting")
        for ticket in self._running.values():
            if ticket.syscall.state is not SyscallState.RUNNING or ticket.core is None:
                raise KernelBug(f"{ticket.syscall!r} is filed as running")
        ids = [t.syscall.id for t in waiting] + list(self._running)
        if len(ids) != len(set(ids)):
            raise KernelBug(f"filed twice: {sorted(i for i in ids if ids.count(i) > 1)}")
        if sum(group.num_calls for group in self._groups.values()) != len(ids):
            raise KernelBug(f"groups count {self._groups}, {len(ids)} calls are here")
        counted = sum(group.num_waiting for group in self._groups.values())
        if not counted == self.num_waiting == len(waiting):
            raise KernelBug(f"groups count {self._groups}, {len(waiting)} calls wait")
        if self._num_yielding != sum(t.is_yielding for t in self._running.values()):
            raise KernelBug(f"{self._num_yielding} are said to yield")


def _context_of(ticket: Ticket) -> int:
    """Tokens of KV that a call will need at most."""
    return ticket.prompt_tokens + ticket.max_tokens
