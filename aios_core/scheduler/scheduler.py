"""Decide which call runs next, on which core, and which running call is preempted.

This module only decides: it starts nothing, reads no clock and calls no model, so every
rule is tested with plain data. `dispatcher` acts.

A call waits in the queue of its route (the cores that can serve it). `pick_next` takes the
best-ranked call among the routes with a free slot. `progressed` returns whether a running
call has used its quantum while a better one waits. A new agent's call starts only when its
context fits (`admission`); until then, calls of active agents may overtake it.
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
    WaitingCall,
)
from aios_core.queueing.ranked_queue import GuardedPolicy, RankedQueue
from aios_core.scheduler.admission import AdmissionController, AdmissionPlan
from aios_core.scheduler.protocols import Pool
from aios_core.scheduler.waiting_calls import (
    Hold,
    RequeuedView,
    Route,
    RouteQueue,
    Ticket,
    WaitingCalls,
)
from aios_core.syscalls import Syscall, SyscallState

RECONSIDER_S = 0.1  # shortest time between two choices of an adaptive policy
MAX_ADMISSION_WAIT_S = 60.0  # without it, small contexts overtake a big one forever
UNDISTURBED = 8  # tokens that a call generates before it may be interrupted
WAITING = (SyscallState.READY, SyscallState.SUSPENDED)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The decision to run a call on a core."""

    ticket: Ticket
    core: Core


class Scheduler:
    """The waiting and running calls of a kernel, and the decisions about them.

    Invariants (see `check`): a ticket is exactly one of waiting, held and running; waiting
    and held tickets are READY or SUSPENDED, running ones are RUNNING; every flow counts
    exactly its own calls.
    """

    def __init__(self, policy: Policy, admission: AdmissionController | None = None) -> None:
        self._configured = GuardedPolicy(policy)
        self.unranked = self._configured.unranked  # empty: `take_unranked` has nothing to return
        self._policy = self._configured  # or the policy that it selected for the current load
        self.admission = admission or AdmissionController()
        self._waiting = WaitingCalls(self._policy, self.admission)
        self._running: dict[int, Ticket] = {}
        self._agents: dict[int, FlowShare] = {}
        self._groups: dict[str, FlowShare] = {}
        # Virtual time of the group that was served last. A group that was idle starts here:
        # otherwise it could use up all the service that it missed at once.
        self._floor = 0.0
        self._seqs = count()
        self._num_preempting = 0
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
        """Number of calls without a slot, including held ones."""
        return self._waiting.num_waiting

    @property
    def num_ready(self) -> int:
        """Number of calls that only need a slot to run."""
        return self._waiting.num_ready

    @property
    def num_running(self) -> int:
        return len(self._running)

    def waiting(self) -> Iterator[Ticket]:
        """Iterate over all calls without a slot, including held ones."""
        return iter(self._waiting)

    def share_of(self, process: AgentProcess) -> tuple[FlowShare, FlowShare]:
        """Return the fair shares of an agent and of its group."""
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
        """Drop the state of an agent that exited and has no calls left."""
        if self._agents.pop(process.pid, None) is not None:
            self._groups[process.group.name].num_members -= 1
        self.admission.forget(process.pid)

    # --- from submit to finish ---------------------------------------------------------------

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
        """Add a new call at the tail of its route's queue.

        `expect_answer` estimates the tokens of the answer; None: `max_tokens`.
        """
        agent, group = self.share_of(process)
        ticket = Ticket(syscall, agent, group, route, prompt_tokens, max_tokens, expect_answer)
        ticket.seq, ticket.queued_at = next(self._seqs), now
        group.enter(self._floor)
        agent.enter(group.floor)
        self._begin_to_wait(ticket, now)
        return ticket

    def pick_next(self, pool: Pool, now: float) -> Assignment | None:
        """Assign a free slot to the best waiting call; None if there is no slot or no call."""
        self._adapt(now)
        found: list[tuple[Ticket, Core]] = []
        for route, queue in self._waiting.queues.items():
            if not queue or (core := pool.pick(route)) is None:
                continue
            if queue.returning:
                self._evict_unfitting(queue, core, now)
            ticket = self._select(queue, core, now)
            if ticket is not None:
                found.append((ticket, core))
        if not found:
            return None
        ticket, core = (
            found[0]
            if len(found) == 1  # the usual case needs no rank, the costliest part of a decision
            else min(found, key=lambda one: self._urgency(one[0], now))
        )
        core = self._nearest(ticket, core, pool)
        pool.used(core)
        self._start(ticket, core, now)
        return Assignment(ticket, core)

    def progressed(self, ticket: Ticket, num_tokens: int, now: float) -> bool:
        """Charge generated tokens. Returns whether the call should now be preempted."""
        self._charge(ticket, OUTPUT_COST * num_tokens)
        quantum = self._policy.quantum
        if quantum is None or ticket.core is None:
            return False
        ticket.quantum_used += num_tokens
        if ticket.quantum_used < quantum or ticket.is_preempting:
            return False
        if not ticket.core.capabilities.preemptible or not self._is_outranked(
            ticket, ticket.core, now
        ):
            return False
        ticket.is_preempting = True
        self._num_preempting += 1
        return True

    def victims(self, now: float) -> list[Ticket]:
        """Return the running calls to preempt at once, one for each route that may interrupt."""
        found = []
        for queue in self._waiting.queues.values():
            if queue and (victim := self._victim_for(queue, now)):
                victim.is_preempting = True
                self._num_preempting += 1
                found.append(victim)
        return found

    def wanted_cores(self) -> set[Core]:
        """Return the cores that could serve a waiting call."""
        return {core for route, queue in self._waiting.queues.items() if queue for core in route}

    def preempted(self, ticket: Ticket, route: Route, now: float) -> None:
        """Move a preempted call from its slot to the tail of the queue of `route`."""
        self._leave_core(ticket)
        ticket.syscall.move_to(SyscallState.SUSPENDED, now)
        ticket.syscall.num_preemptions += 1
        ticket.route = route
        if self._policy.takes_turns:
            ticket.seq = next(self._seqs)
        self._begin_to_wait(ticket, now)

    def retry(self, ticket: Ticket, route: Route, now: float) -> None:
        """Move a call that is retried from its slot to its former position in the queue."""
        self._leave_core(ticket)
        self._release_active(ticket, now)
        ticket.syscall.move_to(SyscallState.READY, now)
        ticket.route = route
        self._waiting.join(ticket)

    def finish(
        self, ticket: Ticket, outcome: SyscallState, now: float, cost: float | None = None
    ) -> None:
        """Remove an answered call, waiting or running. `cost` is its true service, if known."""
        if ticket.syscall.id in self._running:
            self._leave_core(ticket)
        else:
            self._waiting.leave(ticket)
        self._release_active(ticket, now)
        if cost is not None and cost != ticket.charged:
            self._charge(ticket, cost - ticket.charged)
        ticket.agent.leave()
        ticket.group.leave()
        ticket.syscall.move_to(outcome, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Remove the ticket of a waiting call that is prepared again for other cores."""
        self._waiting.leave(ticket)
        self._release_active(ticket, now)
        ticket.agent.leave()
        ticket.group.leave()

    # --- hold and release --------------------------------------------------------------------

    def hold(self, ticket: Ticket, reason: Hold) -> None:
        """Keep a waiting call out of selection while there is any reason to hold it."""
        self._waiting.hold(ticket, reason)

    def release(self, ticket: Ticket, reason: Hold) -> None:
        """Drop a reason to hold a call. The call may run once no reason is left."""
        self._waiting.release(ticket, reason)

    def new_queue(self) -> RankedQueue[Ticket]:
        """Make a queue for held calls, in the order of the current policy."""
        return self._waiting.new_queue()

    def first_of(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        """Return the most urgent call of a queue without removing it."""
        return self._first_by_urgency(queue, now)

    def urgency(self, ticket: Ticket, now: float) -> Rank:
        """Return the rank of a call among those of all routes, smallest first."""
        return self._urgency(ticket, now)

    def take_unranked(self) -> list[tuple[Ticket, SchedulingPolicyError]]:
        """Return the waiting calls that the policy failed to rank, and forget them."""
        return [
            (call, error)
            for call, error in self._policy.take_unranked()
            if isinstance(call, Ticket) and call.syscall.state in WAITING
        ]

    def has(self, ticket: Ticket) -> bool:
        """Return whether a call is in a queue, held, or running."""
        return ticket in self._waiting or self._running.get(ticket.syscall.id) is ticket

    def reroute(self, ticket: Ticket, route: Route) -> None:
        """Let other cores serve a waiting call; it keeps its position and age."""
        self._waiting.reroute(ticket, route)

    # --- internals ---------------------------------------------------------------------------

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
        if ticket.active_on is not core:
            self._release_active(ticket, now)
            load = load_of(core)
            if load.kv_capacity is not None:
                ticket.active_on = core
                context = _context_of(ticket)
                self.admission.apply(
                    core, self.admission.plan(core, load, ticket.syscall.pid, context, now)
                )
                self.admission.admit(core, load, ticket.syscall.pid, context)

    def _leave_core(self, ticket: Ticket) -> None:
        del self._running[ticket.syscall.id]
        ticket.core = None
        if ticket.is_preempting:
            ticket.is_preempting = False
            self._num_preempting -= 1

    def _release_active(self, ticket: Ticket, now: float) -> None:
        """Stop counting a call on the core where its context is, or was."""
        if ticket.active_on is not None:
            context = ticket.prompt_tokens + ticket.syscall.num_tokens
            self.admission.release(ticket.active_on, ticket.syscall.pid, context, now)
            ticket.active_on = None

    def _charge(self, ticket: Ticket, cost: float) -> None:
        if not cost:
            return
        ticket.charged += cost
        ticket.agent.charge(cost)
        ticket.group.charge(cost)

    def _select(self, queue: RouteQueue, core: Core, now: float) -> Ticket | None:
        """Choose the most urgent call of a route that fits the core. Changes nothing."""
        if not queue.returning:
            first = self._first_by_urgency(queue.arriving, now)
            return first if first and self._fits(first, core, now) else None
        returning = self._first_by_urgency(queue.returning, now)
        if returning and self._loses_its_place(returning, core, now):
            # Its context was evicted, so it counts as new; look for the best that is still warm.
            in_order = sorted(queue.returning, key=lambda ticket: self._urgency(ticket, now))
            stay = (t for t in in_order if not self._loses_its_place(t, core, now))
            returning = next(stay, None)
        arriving = self._first_by_urgency(queue.arriving, now)
        if arriving and now - arriving.queued_at > MAX_ADMISSION_WAIT_S:
            # The slot stays empty rather than going to a smaller call, so that memory drains.
            return arriving if self._fits(arriving, core, now) else None
        # If the more urgent one does not fit, the other may still use the slot.
        if arriving is None or returning is None:
            first, second = arriving or returning, None
        elif self._warm_goes_first(returning, arriving, core, now):
            first, second = returning, arriving
        else:
            first, second = arriving, returning
        return next((t for t in (first, second) if t and self._fits(t, core, now)), None)

    def _loses_its_place(self, ticket: Ticket, core: Core, now: float) -> bool:
        """Return whether an active agent's call no longer fits any core with its context."""
        elsewhere = (other for other in ticket.route if other is not core)
        return not self._fits(ticket, core, now) and not any(
            self.admission.is_active(other, ticket.syscall.pid) for other in elsewhere
        )

    def _evict_unfitting(self, queue: RouteQueue, core: Core, now: float) -> None:
        """Evict the agents of returning calls that do not fit; these calls then count as new."""
        while ticket := self._first_by_urgency(queue.returning, now):
            plan = self._plan(ticket, core, load_of(core), now)
            if plan.fits:
                return
            self.admission.apply(core, plan)
            if self._waiting.is_active(ticket):  # on another core
                return
            queue.returning.remove(ticket)
            queue.arriving.push(ticket)

    def _warm_goes_first(self, warm: Ticket, new: Ticket, core: Core, now: float) -> bool:
        """Return whether an active agent's call goes before a new agent's call."""
        if self._policy.warm_first and not self._is_overdue(new, now):
            return self.admission.is_pressed(core, load_of(core)) or (
                self._policy.rank(warm) < self._policy.rank(new)
            )
        return self._urgency(warm, now) < self._urgency(new, now)

    def _nearest(self, ticket: Ticket, core: Core, pool: Pool) -> Core:
        """Return a core with the agent's context, if it has a free slot; else `core`."""
        if len(ticket.route) == 1 or self.admission.is_active(core, ticket.syscall.pid):
            return core
        warm = (c for c in ticket.route if self.admission.is_active(c, ticket.syscall.pid))
        return next((c for c in warm if pool.pick((c,))), core)

    def _first_by_urgency(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        if self._policy.max_wait_s is not None:
            oldest = queue.oldest()
            if oldest is not None and self._is_overdue(oldest, now):
                return oldest
        return queue.best()

    def _fits(self, ticket: Ticket, core: Core, now: float) -> bool:
        load = load_of(core)
        if load.kv_capacity is None:  # the core does not report its memory
            return True
        return self._plan(ticket, core, load, now).fits

    def _plan(self, ticket: Ticket, core: Core, load: CoreLoad, now: float) -> AdmissionPlan:
        pid, context = ticket.syscall.pid, _context_of(ticket)
        return self.admission.plan(core, load, pid, context, now)

    def _urgency(self, call: WaitingCall, now: float) -> Rank:
        """Rank a call over all routes: overdue calls first, oldest first, then by the policy."""
        if self._is_overdue(call, now):
            return (0, call.seq)
        return (1, *self._policy.rank(call))

    def _is_overdue(self, call: WaitingCall, now: float) -> bool:
        bound = self._policy.max_wait_s
        return bound is not None and now - call.queued_at > bound

    def _is_outranked(self, running: Ticket, core: Core, now: float) -> bool:
        """Return whether a waiting call that could take the slot ranks before the running one."""
        queues = [queue for route, queue in self._waiting.queues.items() if queue and core in route]
        # Each call that is already asked to yield will serve one of these waiting calls.
        if sum(map(len, queues)) <= self._num_preempting:
            return False
        fronts = [t for queue in queues if (t := self._select(queue, core, now))]
        at_tail = self._policy.takes_turns
        mine = self._policy.rank_running(RequeuedView(running, now) if at_tail else running)
        return any(self._urgency(ticket, now) < (1, *mine) for ticket in fronts)

    def _victim_for(self, queue: RouteQueue, now: float) -> Ticket | None:
        """Choose the worst-ranked running call that the best call of a route may interrupt."""
        if not self._policy.ever_interrupts or self._num_preempting >= self.num_ready:
            return None
        fronts = [t for part in (queue.arriving, queue.returning) if (t := part.best())]
        for newcomer in sorted(fronts, key=self._policy.rank):
            candidates = [t for t in self._running.values() if self._may_take(newcomer, t, now)]
            if candidates:
                return max(candidates, key=self._policy.rank_running)
        return None

    def _may_take(self, waiting: Ticket, running: Ticket, now: float) -> bool:
        """Return whether a waiting call may take the slot of a running one now."""
        return (
            not running.is_preempting
            and running.quantum_used >= UNDISTURBED
            and running.core in waiting.route
            and running.core.capabilities.preemptible
            and self._policy.interrupts(waiting, running)
            and self._fits(waiting, running.core, now)
        )

    def _adapt(self, now: float) -> None:
        """Let an adaptive policy choose again for the current load."""
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
                raise KernelBug(f"{ticket.syscall!r} is listed as waiting")
        for ticket in self._running.values():
            if ticket.syscall.state is not SyscallState.RUNNING or ticket.core is None:
                raise KernelBug(f"{ticket.syscall!r} is listed as running")
        ids = [t.syscall.id for t in waiting] + list(self._running)
        if len(ids) != len(set(ids)):
            raise KernelBug(f"listed twice: {sorted(i for i in ids if ids.count(i) > 1)}")
        if sum(group.num_calls for group in self._groups.values()) != len(ids):
            raise KernelBug(f"groups count {self._groups}, but there are {len(ids)} calls")
        counted = sum(group.num_waiting for group in self._groups.values())
        if not counted == self.num_waiting == len(waiting):
            raise KernelBug(f"groups count {self._groups}, but {len(waiting)} calls wait")
        if self._num_preempting != sum(t.is_preempting for t in self._running.values()):
            raise KernelBug(f"{self._num_preempting} calls are counted as preempting")


def _context_of(ticket: Ticket) -> int:
    """Return the KV memory that a call needs at most, in tokens."""
    return ticket.prompt_tokens + ticket.max_tokens
