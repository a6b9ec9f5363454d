"""Decide which call runs next, on which core, and which running call is preempted.

This module only decides: it starts nothing, reads no clock and calls no model, so every
rule is tested with plain data. `dispatcher` acts.

A call waits in the queue of its route (the cores that can serve it). `pick_next` takes the
best-ranked call among the routes with a free slot. `progressed` returns whether a running
call has used its quantum while a better one waits. A new agent's call starts only when its
context fits (`admission`); until then, calls of active agents may overtake it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from aios_core.core import Core, load_of
from aios_core.errors import KernelBug, SchedulingPolicyError
from aios_core.messages import Completion
from aios_core.process import AgentProcess
from aios_core.queueing.policy import (
    OUTPUT_COST,
    PROMPT_COST,
    FlowShare,
    Policy,
    QueueLoad,
    Rank,
)
from aios_core.queueing.ranked_queue import GuardedPolicy, RankedQueue
from aios_core.scheduler.admission import FITS, AdmissionController, AdmissionPlan
from aios_core.scheduler.context_books import ContextBooks
from aios_core.scheduler.context_sizes import ExpectAnswer
from aios_core.scheduler.protocols import Pool
from aios_core.scheduler.selection import CallSelector, Choice
from aios_core.scheduler.waiting_calls import (
    Hold,
    RequeuedView,
    Route,
    RouteQueue,
    Ticket,
    WaitingCalls,
)
from aios_core.syscalls import Syscall, SyscallState
from aios_core.token_estimate import TokenRatio

RECONSIDER_S = 0.1  # shortest time between two choices of an adaptive policy
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
        self.books = ContextBooks(self.admission)
        self._counts_memory = False  # a core reports its memory; without one, no books are kept
        self._waiting = WaitingCalls(self._policy, self._configured, self._is_active)
        self._selector = CallSelector(self._waiting, self.books)
        self._running: dict[int, Ticket] = {}
        self._agents: dict[int, FlowShare] = {}
        self._groups: dict[str, FlowShare] = {}
        # Virtual time of the group that was served last. A group that was idle starts here:
        # otherwise it could use up all the service that it missed at once.
        self._floor = 0.0
        self._seqs, self._flows = count(), count()
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
            seq = len(self._groups)
            group = FlowShare(process.group.name, process.group.weight, seq=seq)
            self._groups[process.group.name] = group
        agent = self._agents.get(process.pid)
        if agent is None:
            agent = FlowShare(process.name, process.weight, seq=next(self._flows))
            self._agents[process.pid] = agent
            group.num_members += 1
        return agent, group

    def forget(self, process: AgentProcess) -> None:
        """Drop the state of an agent that exited and has no calls left."""
        if self._agents.pop(process.pid, None) is not None:
            self._groups[process.group.name].num_members -= 1
        if self._counts_memory:
            self.books.exited(process.pid)

    def forget_core(self, core: Core) -> None:
        """Drop the state about a core that is removed. Its calls count nowhere until they run."""
        self._waiting.forget_core(core)
        self.books.forget_core(core)

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
        expect_answer: ExpectAnswer | None = None,
        ratio: TokenRatio | None = None,
    ) -> Ticket:
        """Add a new call at the tail of its route's queue.

        `expect_answer` estimates the tokens of the answer; None: `max_tokens`. `ratio` is the one
        that `prompt_tokens` was estimated with; None: it was counted.
        """
        agent, group = self.share_of(process)
        ticket = Ticket(syscall, agent, group, route, prompt_tokens, max_tokens, expect_answer)
        ticket.seq, ticket.queued_at = next(self._seqs), now
        ticket.ratio, ticket.context_tokens = ratio, prompt_tokens
        if self._counts_memory:
            self.books.submitted(ticket, now)
        group.enter(self._floor)
        agent.enter(group.floor)
        self._begin_to_wait(ticket, now)
        return ticket

    def pick_next(self, pool: Pool, now: float) -> Assignment | None:
        """Assign a free slot to the best waiting call; None if there is no slot or no call."""
        self._adapt(now)
        found: list[tuple[Ticket, Core, AdmissionPlan]] = []
        for route, queue in self._waiting.queues.items():
            if not queue or not (cores := _free_cores(route, pool)):
                continue
            if not self._needs_memory(cores):
                if (first := self._waiting.first(queue.arriving, now)) is not None:
                    found.append((first, cores[0], FITS))
                continue
            choice = self._choose(queue, cores, now)
            if choice.ticket is not None and choice.core is not None:
                found.append((choice.ticket, choice.core, choice.plan))
        if not found:
            return None
        ticket, core, plan = (
            found[0]
            if len(found) == 1  # the usual case needs no rank, the costliest part of a decision
            else min(found, key=lambda one: self._waiting.urgency(one[0], now))
        )
        pool.used(core)
        self._start(ticket, core, plan, now)
        return Assignment(ticket, core)

    def reconsider_at(self, now: float) -> float | None:
        """Return when time alone may let a waiting call start; None: never."""
        if not self._counts_memory:
            return None
        times = (
            self._selector.reconsider_at(queue, now) for queue in self._waiting.queues.values()
        )
        return min((at for at in times if at is not None), default=None)

    def progressed(self, ticket: Ticket, num_tokens: int, now: float) -> bool:
        """Charge generated tokens. Returns whether the call should now be preempted."""
        self._charge(ticket, OUTPUT_COST * num_tokens)
        if self._counts_memory:
            self.books.progressed(ticket, num_tokens, now)
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
        if self._counts_memory:
            self.books.ended(ticket, now)
        ticket.syscall.move_to(SyscallState.READY, now)
        ticket.route = route
        self._waiting.join(ticket)

    def finish(
        self,
        ticket: Ticket,
        outcome: SyscallState,
        now: float,
        cost: float | None = None,
        answer: Completion | None = None,
    ) -> None:
        """Remove an answered call, waiting or running.

        `cost` is its true service, if known, and `answer` what its core generated.
        """
        if ticket.syscall.id in self._running:
            self._leave_core(ticket)
        else:
            self._waiting.leave(ticket)
        if self._counts_memory:
            self.books.ended(ticket, now, answer)
        if cost is not None and cost != ticket.charged:
            self._charge(ticket, cost - ticket.charged)
        ticket.agent.leave()
        ticket.group.leave()
        ticket.syscall.move_to(outcome, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Remove the ticket of a waiting call that is prepared again for other cores."""
        self._waiting.leave(ticket)
        if self._counts_memory:
            self.books.ended(ticket, now)
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
        return self._waiting.first(queue, now)

    def urgency(self, ticket: Ticket, now: float) -> Rank:
        """Return the rank of a call among those of all routes, smallest first."""
        return self._waiting.urgency(ticket, now)

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

    def _is_active(self, ticket: Ticket) -> bool:
        return self._counts_memory and self.books.is_active(ticket)

    def _needs_memory(self, cores: Route) -> bool:
        """Return whether one of the cores reports its memory, or has ever done so."""
        if not self._counts_memory:
            self._counts_memory = any(load_of(core).kv_capacity is not None for core in cores)
        return self._counts_memory

    def _choose(self, queue: RouteQueue, cores: Route, now: float) -> Choice:
        """Choose a call of a route; agents that no longer fit wait as new ones."""
        while True:
            choice = self._selector.choose(queue, cores, now)
            for each in choice.evictions:
                if each.core is not None:
                    self.admission.apply(each.core, each.plan)
                if not self.books.is_active(each.ticket):
                    queue.demote(each.ticket)
            if choice.blocked is not None:
                choice.blocked.waited_for_memory = True
            if choice.blocked is not None and not queue.is_short:
                self._waiting.set_short(queue, is_short=True)
            elif choice.ticket is not None or not choice.evictions:
                return choice

    def _start(self, ticket: Ticket, core: Core, plan: AdmissionPlan, now: float) -> None:
        queue = self._waiting.queues[ticket.route]
        if queue.is_short and ticket in queue.arriving:
            queue.waits.admitted(ticket.context_tokens, now - ticket.queued_at)
        self._waiting.leave(ticket)
        self._floor = max(self._floor, ticket.group.virtual_time)
        ticket.group.floor = max(ticket.group.floor, ticket.agent.virtual_time)
        if ticket.charged == 0:
            self._charge(ticket, PROMPT_COST * ticket.prompt_tokens)
        ticket.syscall.move_to(SyscallState.RUNNING, now)
        ticket.core = core
        ticket.quantum_used = 0
        self._running[ticket.syscall.id] = ticket
        if self._counts_memory:
            self.books.started(ticket, core, plan, now)

    def _leave_core(self, ticket: Ticket) -> None:
        del self._running[ticket.syscall.id]
        ticket.core = None
        if ticket.is_preempting:
            ticket.is_preempting = False
            self._num_preempting -= 1

    def _charge(self, ticket: Ticket, cost: float) -> None:
        if not cost:
            return
        ticket.charged += cost
        ticket.agent.charge(cost)
        ticket.group.charge(cost)

    def _is_outranked(self, running: Ticket, core: Core, now: float) -> bool:
        """Return whether a waiting call that could take the slot ranks before the running one."""
        queues = self._queues_for(core)
        # Each call that is already asked to yield will serve one of these waiting calls.
        if sum(map(len, queues)) <= self._num_preempting:
            return False
        if self._is_pressed(core, queues):
            return False
        fronts = [t for queue in queues if (t := self._selector.choose(queue, (core,), now).ticket)]
        at_tail = self._policy.takes_turns
        mine = self._policy.rank_running(RequeuedView(running, now) if at_tail else running)
        return any(self._waiting.urgency(ticket, now) < (1, *mine) for ticket in fronts)

    def _queues_for(self, core: Core) -> list[RouteQueue]:
        return [queue for route, queue in self._waiting.queues.items() if queue and core in route]

    @staticmethod
    def _is_pressed(core: Core, queues: Iterable[RouteQueue]) -> bool:
        """Return whether preempting would lose a context, since others wait for its memory."""
        return not core.capabilities.kv_snapshots and any(queue.is_short for queue in queues)

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
            and not self._is_pressed(running.core, self._queues_for(running.core))
            and self._selector.fits(waiting, running.core, now)
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
        self.admission.check()


def _free_cores(route: Route, pool: Pool) -> Route:
    """Return the cores of a route with a free slot, the least loaded first."""
    if (first := pool.pick(route)) is None:
        return ()
    if len(route) == 1:
        return (first,)
    others = (core for core in route if core is not first and pool.pick((core,)) is not None)
    return (first, *others)
