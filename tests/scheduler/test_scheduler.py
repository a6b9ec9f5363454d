"""Preemption, admission and the books of the scheduler."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest

from aios_core.queueing.policy import Rank, WaitingCall
from aios_core.queueing.ranked_queue import GuardedPolicy
from aios_core.scheduler import FIFO, LAS, Fair, Policy, RoundRobin
from aios_core.scheduler.admission import AdmissionController
from aios_core.scheduler.waiting_calls import Hold, ticket_queue
from tests.puppet import PuppetCore

from .factories import Machine

# --- preemption -----------------------------------------------------------------------------------


def test_nobody_yields_to_nobody() -> None:
    machine = Machine(RoundRobin(quantum=8))
    running = machine.submit()
    machine.next()

    assert not machine.progress(running, 100)


def test_a_call_whose_core_cannot_preempt_is_not_asked_to() -> None:
    machine = Machine(RoundRobin(quantum=8), cores=[PuppetCore(preemptible=False)])
    running = machine.submit()
    machine.next()
    machine.submit()

    assert not machine.progress(running, 100)


def test_no_more_calls_yield_than_wait() -> None:
    machine = Machine(RoundRobin(quantum=8), slots=4)
    running = [machine.submit(name) for name in "abcd"]
    while machine.next():
        pass
    machine.submit("e")

    assert sum(machine.progress(ticket, 8) for ticket in running) == 1


def test_a_call_that_yields_is_asked_once() -> None:
    machine = Machine(RoundRobin(quantum=8))
    running = machine.submit()
    machine.next()
    machine.submit()

    assert machine.progress(running, 8)
    assert not machine.progress(running, 8)


def test_a_light_group_interrupts_a_heavy_one_before_its_quantum_is_over() -> None:
    machine = Machine(Fair(quantum=64), slots=2)
    heavy = [machine.submit(f"heavy {n}", group="heavy", prompt=300) for n in range(2)]
    while machine.next():
        pass
    for ticket in heavy:
        assert not machine.progress(ticket, 20)
    light = machine.submit("light", group="light")

    (victim,) = machine.scheduler.victims(machine.now)
    assert machine.scheduler.victims(machine.now) == [], "one slot for one call"
    machine.preempt(victim)
    assert machine.next() is light


def test_held_calls_interrupt_nobody() -> None:
    machine = Machine(Fair(quantum=64), slots=2)
    for n in range(2):
        machine.submit(f"heavy {n}", group="heavy", prompt=300)
        ticket = machine.next()
        assert ticket is not None
        machine.progress(ticket, 20)
    for _ in range(3):
        machine.scheduler.hold(machine.submit("frozen", group="frozen"), Hold.FROZEN)
    machine.submit("light", group="light")

    assert len(machine.scheduler.victims(machine.now)) == 1
    assert machine.scheduler.victims(machine.now) == []


def test_a_held_call_makes_nobody_yield_and_is_not_picked() -> None:
    machine = Machine(RoundRobin(quantum=8))
    running = machine.submit()
    machine.next()
    held = machine.submit()
    machine.scheduler.hold(held, Hold.FROZEN)

    assert not machine.progress(running, 8)
    machine.finish(running)
    assert machine.next() is None
    machine.scheduler.release(held, Hold.FROZEN)
    assert machine.next() is held


def test_a_released_call_has_kept_its_place() -> None:
    machine = Machine(FIFO())
    first, _ = machine.submit(), machine.submit()
    machine.scheduler.hold(first, Hold.FROZEN)
    machine.scheduler.release(first, Hold.FROZEN)

    assert machine.next() is first


def test_a_call_waits_for_its_own_cores_only() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    machine = Machine(RoundRobin(quantum=8), cores=[one, two])
    on_one = machine.submit("x", route=(one,))
    machine.next()
    machine.submit("y", route=(one,))
    only_two = machine.submit("z", route=(two,))

    assert machine.next() is only_two
    machine.scheduler.reroute(on_two := machine.submit("w", route=(one,)), (two,))
    machine.finish(only_two)
    assert machine.next() is on_two
    assert machine.progress(on_one, 8), "who waits for its core still does"


# --- admission ------------------------------------------------------------------------------------


def device(capacity: int, used: int = 0, slots: int = 8) -> PuppetCore:
    core = PuppetCore(slots=slots, kv_capacity=capacity)
    core.kv_tokens = used
    return core


def test_a_new_agent_is_let_in_when_its_context_fits() -> None:
    machine = Machine(FIFO(), cores=[device(100)])
    fits, does_not = machine.submit("a", prompt=50), machine.submit("b", prompt=60)

    assert machine.next() is fits
    assert machine.next() is None
    machine.finish(fits)
    machine.scheduler.forget(machine.agent("a"))
    assert machine.next() is does_not


def test_anything_may_go_to_an_idle_core() -> None:
    machine = Machine(FIFO(), cores=[device(100)])
    giant = machine.submit("a", prompt=5_000)

    assert machine.next() is giant


def test_a_core_without_known_memory_admits_everybody() -> None:
    machine = Machine(FIFO(), slots=3)
    for name in "abc":
        machine.submit(name, prompt=1 << 30)

    assert [machine.next() is not None for _ in range(3)] == [True] * 3


def test_a_returning_agent_goes_ahead_of_a_new_one_when_memory_is_short() -> None:
    machine = Machine(FIFO(), cores=[device(100)])
    warm, other = machine.submit("warm", prompt=30), machine.submit("other", prompt=30)
    machine.next()
    machine.next()
    machine.finish(warm)
    new = machine.submit("new", prompt=20)
    again = machine.submit("warm", prompt=35)

    assert machine.next() is again
    machine.finish(other)
    machine.finish(again)
    assert machine.next() is None, "both contexts are worth their memory for a while"
    machine.now = 60
    assert machine.next() is new


def test_an_idle_agent_loses_its_place_after_a_while() -> None:
    machine = Machine(FIFO(), cores=[device(100)], admission=AdmissionController(keep_warm_s=5))
    idle, busy = machine.submit("idle", prompt=40), machine.submit("busy", prompt=30)
    machine.next()
    machine.next()
    machine.finish(idle)
    assert busy.core is not None
    new = machine.submit("new", prompt=40)
    machine.now = 4
    assert machine.next() is None
    machine.now = 6

    assert machine.next() is new


def test_the_context_of_an_agent_that_is_gone_makes_room() -> None:
    machine = Machine(FIFO(), cores=[device(100)])
    gone, busy = machine.submit("gone", prompt=40), machine.submit("busy", prompt=30)
    machine.next()
    machine.next()
    machine.finish(gone)
    machine.scheduler.forget(machine.agent("gone"))
    new = machine.submit("new", prompt=40)

    assert busy.core is not None
    assert machine.next() is new


def test_suspended_calls_do_not_wait_for_their_own_places() -> None:
    machine = Machine(FIFO(), cores=[device(100)])
    large, small = machine.submit("large", prompt=50), machine.submit("small", prompt=20)
    assert [machine.next(), machine.next()] == [large, small]

    machine.preempt(large)
    machine.preempt(small)

    assert {machine.next(), machine.next()} == {large, small}
    machine.scheduler.check()


# --- books ----------------------------------------------------------------------------------------


def test_a_finished_call_cannot_run_again() -> None:
    machine = Machine(FIFO())
    call = machine.submit()
    machine.next()
    machine.finish(call)

    assert machine.next() is None
    assert machine.scheduler.num_waiting == machine.scheduler.num_running == 0


@pytest.mark.parametrize("policy", [FIFO(), LAS(), Fair()], ids=lambda p: p.name)
def test_a_queue_forgets_the_calls_that_left_it(policy: Policy) -> None:
    machine = Machine(policy)
    eldest = machine.submit(priority=-1)
    queue = ticket_queue(GuardedPolicy(policy))
    queue.push(eldest)
    for _ in range(2_000):
        call = machine.submit()
        queue.push(call)
        queue.remove(call)
        queue.best()
    del call
    gc.collect()

    assert len(queue._heap) < 200
    assert len(queue._ages) < 200


def test_a_stranger_s_policy_is_a_class_with_a_rank() -> None:
    @dataclass(frozen=True, slots=True)
    class ShortestName(Policy):
        def rank(self, call: WaitingCall) -> Rank:
            return (len(call.agent.name), call.seq)  # type: ignore[attr-defined]

    machine = Machine(ShortestName())
    for name in ("ccc", "a", "bb"):
        machine.submit(name)

    assert machine.serve() == ["a", "bb", "ccc"]
    assert ShortestName().name == "ShortestName"


def test_a_running_call_that_is_ranked_again_ends_no_other_agents_warm_status() -> None:
    core = device(100, slots=2)
    machine = Machine(RoundRobin(quantum=8), cores=[core])
    running, idle = machine.submit("running", prompt=30), machine.submit("idle", prompt=30)
    machine.next()
    machine.next()
    machine.finish(idle)
    core.slots = 1
    machine.submit("idle", prompt=200)
    assert machine.scheduler.admission.is_active(core, machine.agent("idle").pid)

    for _ in range(3):
        machine.progress(running, 8)
        machine.scheduler.victims(machine.now)

    assert machine.scheduler.admission.is_active(core, machine.agent("idle").pid)
    machine.scheduler.check()


def test_a_waiting_new_agent_hides_no_returning_one_that_may_interrupt() -> None:
    core = device(10_000, slots=1)
    machine = Machine(Fair(quantum=64), cores=[core])
    warm = machine.submit("warm", group="B", prompt=1)
    machine.next()
    machine.finish(warm)
    heavy = machine.submit("heavy", group="A", prompt=500)
    machine.next()
    machine.progress(heavy, 10)
    machine.submit("warm", group="B", prompt=1)
    machine.submit("newcomer", group="A", prompt=1)

    assert machine.scheduler.victims(machine.now) == [heavy]


def test_calls_without_a_token_limit_run_at_once_when_their_contexts_fit() -> None:
    """A call could fill the whole window, and does not count as if it did."""
    machine = Machine(FIFO(), cores=[device(4_096)])
    for number in range(8):
        machine.submit(f"agent {number}", prompt=60, output=4_096, expected=512)

    assert all(machine.next() for _ in range(8))
