"""Guarantees of every policy, checked by letting Hypothesis drive a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aios_core.extensions import POLICIES as REGISTERED
from aios_core.queueing.policy import FlowShare, Rank, WaitingCall
from aios_core.scheduler import POLICIES, Policy, QueueLoad
from aios_core.scheduler.waiting_calls import Hold, Route, Ticket
from aios_core.syscalls import Syscall, SyscallState
from tests.puppet import PuppetCore

from .factories import HELLO, Machine

ENDS = [SyscallState.DONE, SyscallState.FAILED, SyscallState.CANCELLED]
STOPS = [SyscallState.FAILED, SyscallState.CANCELLED]


@dataclass(frozen=True, slots=True)
class LeastUrgentFirst(Policy):
    """A third-party policy that bounds overtaking by `max_wait_s` only."""

    quantum: int | None = 4
    max_wait_s: float | None = 20.0
    takes_turns: bool = True

    def rank(self, call: WaitingCall) -> Rank:
        return (-call.priority, call.seq)


def _tuned(make: Callable[[], Policy]) -> Policy:
    """With a quantum short enough to matter in a test."""
    policy = make()
    return replace(policy, quantum=4) if policy.quantum else policy


EVERY: dict[str, Callable[[], Policy]] = {
    **{name: partial(_tuned, make) for name, make in POLICIES.items()},
    "a stranger's": LeastUrgentFirst,
}
every_policy = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


# --- the contract ---------------------------------------------------------------------------------


@every_policy
def test_a_policy_is_plain_frozen_data(make: Callable[[], Policy]) -> None:
    policy = make()

    assert policy == make()
    assert hash(policy) == hash(make())
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        policy.quantum = 3  # type: ignore[misc]
    assert {"quantum", "max_wait_s"} <= {f.name for f in fields(policy)}


@every_policy
def test_a_rank_is_a_pure_answer(make: Callable[[], Policy]) -> None:
    policy, call = make(), _call()

    assert policy.rank(call) == policy.rank(call)
    assert call.agent.service == call.group.virtual_time == 0


@every_policy
def test_ranks_never_shrink_while_a_call_waits(make: Callable[[], Policy]) -> None:
    policy, call = make(), _call()
    ranks = [policy.rank(call)]

    for cost in (1.0, 0.0, -5.0, 3.0, 1e6, -1e6, 10.0):
        call.agent.charge(cost)
        call.group.charge(cost)
        ranks.append(policy.rank(call))

    assert ranks == sorted(ranks)


@every_policy
def test_a_later_call_of_the_same_agent_does_not_rank_before_an_earlier_one(
    make: Callable[[], Policy],
) -> None:
    policy, first = make(), _call()
    second = _call(seq=2, agent=first.agent, group=first.group)

    assert policy.rank(first) < policy.rank(second)


def test_the_configuration_allows_every_policy_and_no_other() -> None:
    assert tuple(REGISTERED.built_in) == tuple(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_called_as_it_is_listed(name: str) -> None:
    assert POLICIES[name]().name == name


@every_policy
@pytest.mark.parametrize("load", [QueueLoad(0, 1, 0), QueueLoad(9, 1, 1), QueueLoad(9, 1, 3)])
def test_what_a_policy_selects_is_a_policy(make: Callable[[], Policy], load: QueueLoad) -> None:
    assert isinstance(make().select(load), Policy)


@every_policy
def test_equal_agents_that_ask_alike_are_served_alike(make: Callable[[], Policy]) -> None:
    machine = Machine(make())
    for _ in range(10):
        for name in "abc":
            machine.submit(name, group=name)

    turns = machine.serve(tokens=4, quantum=4)[:15]

    assert {name: turns.count(name) for name in "abc"} == {"a": 5, "b": 5, "c": 5}


@every_policy
def test_nobody_starves_beside_a_stream_of_newcomers(make: Callable[[], Policy]) -> None:
    machine = Machine(make())
    victim = machine.submit("victim", priority=3, prompt=1, group="victims")
    victim.agent.service = victim.group.service = 10_000
    for n in range(200):
        machine.submit(f"newcomer {n}", prompt=5, group=f"g{n % 2}")
        ticket = machine.next()
        assert ticket is not None
        if ticket is victim:
            break
        machine.progress(ticket, 1)
        machine.now += 1
        machine.finish(ticket)
        machine.scheduler.forget(machine.agents.pop(ticket.agent.name))

    assert victim.syscall.state is SyscallState.RUNNING, "not served in 200 s"


def _call(
    *, seq: int = 1, agent: FlowShare | None = None, group: FlowShare | None = None
) -> Ticket:
    syscall = Syscall(seq, 1, HELLO, 0.0)
    ticket = Ticket(syscall, agent or FlowShare("a"), group or FlowShare("g"), (), 1, 1)
    ticket.seq = seq
    return ticket


# --- the machine ----------------------------------------------------------------------------------


class SchedulerMachine(RuleBasedStateMachine):
    """Two cores under changing load; calls come, run, yield, fail, are held and withdrawn."""

    make: Callable[[], Policy]

    def __init__(self) -> None:
        super().__init__()
        self.one = PuppetCore("one", slots=1)
        self.two = PuppetCore("two", slots=2, kv_capacity=60)
        self.machine = Machine(type(self).make(), cores=[self.one, self.two])
        self.accepted: list[Ticket] = []
        self.ranks: dict[int, tuple[object, Rank]] = {}

    def of(self, *states: SyscallState) -> list[Ticket]:
        return [t for t in self.accepted if t.syscall.state in states]

    @property
    def running(self) -> list[Ticket]:
        return self.of(SyscallState.RUNNING)

    @property
    def waiting(self) -> list[Ticket]:
        return self.of(SyscallState.READY, SyscallState.SUSPENDED)

    @rule(
        agent=st.sampled_from("abcde"),
        priority=st.integers(0, 3),
        prompt=st.integers(1, 40),
        where=st.sampled_from(["both", "one", "two"]),
    )
    def submit(self, agent: str, priority: int, prompt: int, where: str) -> None:
        routes: dict[str, Route] = {
            "both": (self.one, self.two),
            "one": (self.one,),
            "two": (self.two,),
        }
        self.accepted.append(
            self.machine.submit(
                agent,
                group="even" if agent in "ac" else "odd",
                priority=priority,
                prompt=prompt,
                route=routes[where],
            )
        )

    @rule()
    def pick(self) -> None:
        decision = self.machine.decide()
        if decision:
            assert decision.core in decision.ticket.route
            assert not decision.ticket.is_held
            assert self.machine.taken(decision.core) <= decision.core.load().slots

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(1, 9))
    def progress(self, data: st.DataObject, num_tokens: int) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        num_free_to_run = sum(not t.is_held for t in self.waiting)
        if self.machine.progress(ticket, num_tokens):
            assert sum(t.is_preempting for t in self.running) <= num_free_to_run
            assert self.machine.scheduler.policy.quantum is not None

    @rule()
    def interrupt(self) -> None:
        for victim in self.machine.scheduler.victims(self.machine.now):
            assert victim.is_preempting
            assert victim.syscall.state is SyscallState.RUNNING
            assert victim.core is not None
            assert victim.core.capabilities.preemptible
        assert self.machine.scheduler._num_preempting <= max(len(self.waiting), len(self.running))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), pinned=st.booleans())
    def preempt(self, data: st.DataObject, pinned: bool) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        assert ticket.core is not None
        self.machine.preempt(ticket, (ticket.core,) if pinned else ())

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.machine.retry(data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), reason=st.sampled_from(Hold))
    def hold(self, data: st.DataObject, reason: Hold) -> None:
        self.machine.scheduler.hold(data.draw(st.sampled_from(self.waiting)), reason)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), reason=st.sampled_from(Hold))
    def release(self, data: st.DataObject, reason: Hold) -> None:
        self.machine.scheduler.release(data.draw(st.sampled_from(self.waiting)), reason)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def reroute(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.machine.scheduler.reroute(ticket, self.machine.cores)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(ENDS), cost=st.none() | st.integers(0, 99))
    def finish(self, data: st.DataObject, outcome: SyscallState, cost: int | None) -> None:
        self.machine.finish(data.draw(st.sampled_from(self.running)), outcome, cost)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(STOPS))
    def withdraw(self, data: st.DataObject, outcome: SyscallState) -> None:
        self.machine.finish(data.draw(st.sampled_from(self.waiting)), outcome)

    @rule(agent=st.sampled_from("abcde"))
    def exit(self, agent: str) -> None:
        process = self.machine.agents.pop(agent, None)
        if process is None:
            return
        for ticket in self.accepted:
            if ticket.syscall.pid == process.pid and not ticket.syscall.state.is_final:
                self.machine.finish(ticket, SyscallState.CANCELLED)
        self.machine.scheduler.forget(process)

    @rule(seconds=st.floats(0.05, 40))
    def wait(self, seconds: float) -> None:
        self.machine.now += seconds

    @rule(slots=st.integers(1, 3), kv=st.integers(0, 60))
    def load_changes(self, slots: int, kv: int) -> None:
        self.two.slots, self.two.kv_tokens = slots, kv

    @invariant()
    def holds_its_invariants(self) -> None:
        self.machine.scheduler.check()
        assert self.machine.scheduler.num_waiting == len(self.waiting)
        assert self.machine.scheduler.num_running == len(self.running)
        assert {t.syscall.id for t in self.running} == set(self.machine.occupied)

    @invariant()
    def ranks_grow_while_calls_wait(self) -> None:
        policy = self.machine.scheduler.policy
        known, self.ranks = self.ranks, {}
        for ticket in self.waiting:
            mark, rank = (ticket.seq, ticket.queued_at, policy), policy.rank(ticket)
            before = known.get(ticket.syscall.id)
            assert before is None or before[0] != mark or before[1] <= rank
            self.ranks[ticket.syscall.id] = (mark, rank)

    @invariant()
    def books_of_the_memory_add_up(self) -> None:
        for active in self.machine.scheduler.admission._active.values():
            assert active.num_tokens == active.sum()
            assert all(agent.num_calls >= 0 for agent in active.agents.values())
            assert active.num_prefilling >= 0

    def teardown(self) -> None:
        """Once the pressure stops, every accepted call reaches a final state."""
        for ticket in self.waiting:
            for reason in Hold:
                self.machine.scheduler.release(ticket, reason)
        for ticket in self.running:
            self.machine.finish(ticket)
        while self.machine.scheduler.num_waiting:
            if left := self.machine.next():
                self.machine.finish(left)
            else:
                later = self.machine.scheduler.reconsider_at(self.machine.now)
                assert later is not None, self.waiting
                assert later > self.machine.now
                self.machine.now = later
        assert all(t.syscall.state.is_final for t in self.accepted), self.waiting
        self.machine.scheduler.check()
        assert self.machine.scheduler._num_preempting == 0


@every_policy
def test_every_call_ends_whatever_happens_to_it(make: Callable[[], Policy]) -> None:
    machine = type("Machine", (SchedulerMachine,), {"make": staticmethod(make)})

    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
    )
