"""The order in which each scheduling policy serves calls."""

from __future__ import annotations

import pytest

from aios_core.scheduler import FIFO, LAS, Auto, Fair, Priority, QueueLoad, RoundRobin
from aios_core.syscalls import SyscallState

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
