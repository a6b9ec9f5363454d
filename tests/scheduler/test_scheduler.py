"""Each policy's rule, admission and preemption, as data: no loop, no clock, no model."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest

from aios_core.queueing.policy import Rank, WaitingCall
from aios_core.queueing.ranked_queue import GuardedPolicy
from aios_core.scheduler import FIFO, LAS, Auto, Fair, Policy, Priority, QueueLoad, RoundRobin
from aios_core.scheduler.admission import HIGHEST, LOWEST, AdmissionController
from aios_core.scheduler.waiting_calls import Hold, ticket_queue
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore

from .factories import Machine

# --- fifo and round robin -------------------------------------------------------------------------


def test_fifo_serves_in_order_of_arrival() -> None:
    machine = Machine(FIFO())
    first, second = machine.submit(), machine.submit()

    assert machine.next() is first
    assert machine.next() is None, "the only slot is taken"
    machine.finish(first)
    assert machine.next() is second


def test_fifo_never_preempts() -> None:
    machine = Machine(FIFO())
    running = machine.submit()
    machine.next()
    machine.submit()

    assert not machine.progress(running, 1_000_000)


def test_round_robin_sends_a_preempted_call_to_the_tail() -> None:
    machine = Machine(RoundRobin(quantum=8))
    for name in "abc":
        machine.submit(name)

    assert machine.serve(tokens=20, quantum=8) == list("abcabcabc")


def test_a_call_that_failed_keeps_its_place() -> None:
    machine = Machine(RoundRobin())
    first = machine.submit("first")
    machine.submit("second")
    machine.next()
    machine.retry(first)

    assert machine.next() is first


# --- priority -------------------------------------------------------------------------------------


def test_priority_overtakes_arrival() -> None:
    machine = Machine(Priority())
    machine.submit(priority=5)
    urgent = machine.submit(priority=0)

    assert machine.next() is urgent


@pytest.mark.parametrize(("later_s", "overtakes"), [(29.9, True), (30.1, False)])
def test_aging_bounds_who_may_overtake(later_s: float, overtakes: bool) -> None:
    machine = Machine(Priority(aging_s=10.0))
    patient = machine.submit(priority=3)
    machine.now = later_s
    urgent = machine.submit(priority=0)

    assert machine.next() is (urgent if overtakes else patient)


def test_a_running_call_yields_to_a_more_urgent_one_and_to_no_other() -> None:
    machine = Machine(Priority(quantum=8))
    running = machine.submit(priority=1)
    machine.next()
    machine.submit(priority=2)
    assert not machine.progress(running, 8)

    machine.submit(priority=0)
    assert machine.progress(running, 8)


# --- fair -----------------------------------------------------------------------------------------


def test_fair_shares_among_groups_before_agents() -> None:
    machine = Machine(Fair(quantum=None))
    for n in range(8):
        machine.submit(f"heavy {n}", group="heavy")
    for _ in range(4):
        machine.submit("light", group="light")

    first_eight = machine.serve()[:8]

    assert first_eight.count("light") == 4


def test_fair_gives_groups_service_by_weight() -> None:
    machine = Machine(Fair(quantum=None))
    machine.table.add_group("gold", weight=3.0)
    for _ in range(40):
        machine.submit("gold", group="gold", prompt=1)
        machine.submit("plain", group="plain", prompt=1)

    turns = machine.serve(tokens=10)[:40]

    assert turns.count("gold") == pytest.approx(30, abs=1)


def test_fair_gives_the_agents_of_a_group_service_by_weight() -> None:
    machine = Machine(Fair(quantum=None))
    machine.agent("strong", weight=2.0)
    for _ in range(30):
        machine.submit("strong")
        machine.submit("weak")

    turns = machine.serve()[:30]

    assert turns.count("strong") == pytest.approx(20, abs=1)


def test_fair_counts_tokens_not_calls() -> None:
    machine = Machine(Fair(quantum=None))
    long, short = [], []
    for _ in range(10):
        long.append(machine.submit("long", group="long", prompt=1))
        short.append(machine.submit("short", group="short", prompt=1))
    served = {"long": 0, "short": 0}
    for _ in range(11):
        ticket = machine.next()
        assert ticket is not None
        tokens = 100 if ticket in long else 10
        served[ticket.agent.name] += tokens
        machine.progress(ticket, tokens)
        machine.finish(ticket)

    assert abs(served["long"] - served["short"]) <= 100 + 10


def test_an_idle_group_earns_no_claim() -> None:
    machine = Machine(Fair(quantum=None))
    for _ in range(20):
        machine.submit("busy", group="busy")
    for _ in range(10):
        ticket = machine.next()
        assert ticket is not None
        machine.progress(ticket, 10)
        machine.finish(ticket)
    for _ in range(10):
        machine.submit("late", group="late")

    turns = machine.serve()[:10]

    assert turns.count("busy") == pytest.approx(5, abs=1)


def test_a_light_groups_lag_is_bounded_by_a_prompt_and_a_quantum() -> None:
    machine = Machine(Fair(quantum=8))
    for n in range(10):
        machine.submit(f"heavy {n}", group="heavy", prompt=50)
    ticket = machine.next()
    light = machine.submit("light", group="light", prompt=1)
    assert ticket is not None

    turns = 0
    while ticket is not light:
        assert ticket is not None
        if machine.progress(ticket, 8):
            machine.preempt(ticket)
            ticket = machine.next()
        turns += 1

    assert turns <= 1, "the running call yields at its next quantum"


def test_service_that_was_charged_too_much_is_given_back() -> None:
    machine = Machine(Fair(quantum=None))
    dear = machine.submit("dear", group="dear", prompt=1_000)
    machine.next()
    machine.finish(dear, cost=10.0)
    for _ in range(4):
        machine.submit("dear", group="dear", prompt=90)
        machine.submit("other", group="other", prompt=90)

    turns = machine.serve(tokens=5)

    assert turns[:2] != ["dear", "dear"]
    assert dear.group.credit == 0 or dear.group.service <= 1_000


# --- las ------------------------------------------------------------------------------------------


def test_las_lets_an_agent_with_little_service_go_first() -> None:
    machine = Machine(LAS(level_tokens=100))
    old = machine.submit("old")
    machine.next()
    machine.progress(old, 500)
    machine.finish(old)
    machine.submit("old")
    new = machine.submit("new")

    assert machine.next() is new


def test_las_serves_one_level_in_order_of_arrival() -> None:
    machine = Machine(LAS(level_tokens=1_000))
    first = machine.submit("first")
    machine.next()
    machine.progress(first, 10)
    machine.finish(first)
    machine.submit("first")
    machine.submit("second")

    assert machine.serve() == ["first", "second"], "a little more service is no reason to wait"


@pytest.mark.parametrize(
    ("service", "level"), [(0, 0), (511, 0), (512, 1), (1_535, 1), (1_536, 2), (3_584, 3)]
)
def test_las_levels_double(service: float, level: int) -> None:
    machine = Machine(LAS(level_tokens=512))
    call = machine.submit()
    call.agent.service = service

    assert LAS(level_tokens=512).rank(call)[0] == level


def test_an_agent_that_las_keeps_back_is_overtaken_for_a_bounded_time() -> None:
    machine = Machine(LAS(level_tokens=10, max_wait_s=30))
    old = machine.submit("old")
    machine.next()
    machine.progress(old, 1_000)
    machine.finish(old)
    old = machine.submit("old")
    machine.now = 29
    young = machine.submit("young")
    assert machine.next() is young
    machine.finish(young)
    machine.now = 31
    machine.submit("younger still")

    assert machine.next() is old


# --- auto -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "slots", "groups", "chosen"),
    [(0, 1, 0, FIFO), (4, 4, 1, FIFO), (5, 4, 1, LAS), (0, 4, 2, Fair)],
)
def test_auto_chooses_by_load(waiting: int, slots: int, groups: int, chosen: type) -> None:
    assert type(Auto().select(QueueLoad(waiting, slots, groups))) is chosen


def test_a_quantum_of_autos_own_is_that_of_what_it_chooses() -> None:
    auto = Auto(quantum=7, max_wait_s=3.0)

    assert auto.select(QueueLoad(0, 1, 2)).quantum == 7
    assert auto.select(QueueLoad(9, 1, 1)) == LAS(quantum=7, max_wait_s=3.0)
    assert auto.select(QueueLoad(0, 1, 1)) == FIFO(), "what never preempts does not begin to"


def test_auto_chooses_again_when_the_load_changes() -> None:
    machine = Machine(Auto())
    machine.submit("a")
    running = machine.next()
    assert machine.scheduler.policy.name == "fifo"
    assert running is not None
    for name in "bcd":
        machine.submit(name, group=name)
    machine.now += 1
    machine.next()
    assert machine.scheduler.policy.name == "fair"

    for ticket in tuple(machine.scheduler.waiting()):
        machine.finish(ticket, SyscallState.CANCELLED)
    for name in "bcd":
        machine.scheduler.forget(machine.agent(name))
    machine.now += 1
    machine.next()
    assert machine.scheduler.policy.name == "fifo"


def test_what_waits_is_ordered_anew_when_auto_changes_its_mind() -> None:
    machine = Machine(Auto())
    running = machine.submit("rich", group="rich", prompt=1_000)
    machine.next()
    machine.submit("rich", group="rich")
    poor = machine.submit("poor", group="poor")
    machine.now += 1
    machine.next()
    machine.finish(running)

    assert machine.next() is poor


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
    heavy = [machine.submit(f"heavy {n}", group="heavy", prompt=9) for n in range(2)]
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
        machine.submit(f"heavy {n}", group="heavy", prompt=9)
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


def test_more_is_promised_while_there_is_room_and_less_when_the_core_runs_full() -> None:
    admission, core = AdmissionController(), device(100)

    def factor() -> float:
        return admission._active[core].factor

    admission.admit(core, core.load(), 0, 1)
    factors = [factor()]
    for pid in range(1, 1_000):
        admission.admit(core, core.load(), pid, 0)
        factors.append(factor())
    assert factors == sorted(factors)
    assert factors[-1] == HIGHEST
    assert factors[1] - factors[0] < 0.02, "additive, and small"

    core.kv_tokens = 100
    admission.admit(core, core.load(), 1, 0)
    cut = factor()
    assert cut < HIGHEST
    for pid in range(1_000):
        admission.admit(core, core.load(), pid, 0)
    assert factor() == LOWEST


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


# --- questions change nothing ---------------------------------------------------------------------


def test_asking_whether_a_call_fits_makes_no_agent_inactive() -> None:
    admission, core = AdmissionController(keep_warm_s=5), device(100)
    core.runs = {1: None}  # type: ignore[dict-item]
    load = core.load()
    for pid in (1, 2, 3):
        admission.admit(core, load, pid, 30)
        admission.release(core, pid, 30, now=0.0)
    admission.admit(core, load, 1, 30)
    before = {pid: admission.is_active(core, pid) for pid in (1, 2, 3)}

    plan = admission.plan(core, load, 1, 60, now=1.0)
    admission.plan(core, load, 9, 60, now=99.0)
    refused = admission.plan(core, load, 3, 99, now=1.0)

    assert before == {pid: admission.is_active(core, pid) for pid in (1, 2, 3)}
    assert plan.fits
    assert plan.evicted == (3,), "the one admitted last goes first"
    assert not refused.fits
    assert refused.evicted == (3,)
    admission.apply(core, plan)
    assert not admission.is_active(core, 3)
    assert admission.is_active(core, 2)


def test_a_running_call_that_is_ranked_again_ends_no_other_agents_warm_status() -> None:
    core = device(100, slots=2)
    machine = Machine(RoundRobin(quantum=8), cores=[core])
    running, idle = machine.submit("running", prompt=40), machine.submit("idle", prompt=40)
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
    heavy = machine.submit("heavy", group="A", prompt=50)
    machine.next()
    machine.progress(heavy, 10)
    machine.submit("warm", group="B", prompt=1)
    machine.submit("newcomer", group="A", prompt=1)

    assert machine.scheduler.victims(machine.now) == [heavy]
