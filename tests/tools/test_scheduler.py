"""The choice of the next tool call: limits, exclusive resources, fairness. No clock, no thread."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios_core import Overloaded, Rate, ToolUnavailable
from aios_core.queueing.ranked_queue import GuardedPolicy
from aios_core.scheduler import FIFO, LAS, POLICIES, Auto, Fair, Policy, Priority
from aios_core.tools.scheduler import ToolLimits, ToolScheduler
from aios_core.tools.tool_queue import TicketState, ToolTicket

from .rig import make


def make_scheduler(policy: Policy | None = None, **limits: Any) -> ToolScheduler:
    return ToolScheduler(ToolLimits(**limits), policy or FIFO())


def submit(
    scheduler: ToolScheduler, name: str = "t", *, pid: int = 1, now: float = 0.0, **declared: Any
) -> ToolTicket:
    options = {key: declared.pop(key) for key in ("priority", "group") if key in declared}
    tool = make(name, lambda: None, **declared)
    return scheduler.submit(
        tool,
        f":{tool.id}",
        pid=pid,
        agent=(f"agent {pid}", 1.0),
        group=(options.get("group", "default"), 1.0),
        priority=options.get("priority", 0),
        now=now,
    )


def picked(scheduler: ToolScheduler, now: float = 0.0) -> list[ToolTicket]:
    found = []
    while (ticket := scheduler.pick(now)) is not None:
        found.append(ticket)
    scheduler.check()
    return found


class TestLimits:
    def test_no_more_run_than_there_are_workers(self) -> None:
        scheduler = make_scheduler(max_running=2)
        tickets = [submit(scheduler, pid=pid) for pid in range(3)]
        assert picked(scheduler) == tickets[:2]

        scheduler.end(tickets[0], 1.0)

        assert picked(scheduler) == tickets[2:]

    def test_one_agent_cannot_take_every_worker(self) -> None:
        scheduler = make_scheduler(max_running=4, max_running_per_agent=2)
        heavy = [submit(scheduler, pid=1) for _ in range(5)]
        light = submit(scheduler, pid=2)
        assert picked(scheduler) == [*heavy[:2], light]

        scheduler.end(heavy[0], 1.0)

        assert picked(scheduler) == [heavy[2]]

    def test_a_tool_runs_as_many_times_at_once_as_it_says(self) -> None:
        scheduler = make_scheduler()
        tickets = [submit(scheduler, "narrow", parallel=1) for _ in range(2)]
        wide = submit(scheduler, "wide")
        assert picked(scheduler) == [tickets[0], wide]

    def test_processes_are_bounded(self) -> None:
        scheduler = make_scheduler(max_processes=1)
        tickets = [submit(scheduler, f"t{number}", isolation="process") for number in range(2)]
        assert picked(scheduler) == tickets[:1]

    def test_a_rate_says_when_the_next_call_may_begin(self) -> None:
        scheduler = make_scheduler()
        first = submit(scheduler, rate=Rate(1, per_s=2.0))
        second = submit(scheduler, rate=Rate(1, per_s=2.0))
        assert picked(scheduler) == [first]
        assert scheduler.next_at(0.0) == 2.0
        assert picked(scheduler, 1.9) == []
        assert picked(scheduler, 2.0) == [second]

    def test_full_queues_refuse_with_a_time(self) -> None:
        scheduler = make_scheduler(max_waiting=3, max_waiting_per_agent=2)
        submit(scheduler, pid=1)
        submit(scheduler, pid=1)
        with pytest.raises(Overloaded, match="agent 1"):
            submit(scheduler, pid=1)
        submit(scheduler, pid=2)
        with pytest.raises(Overloaded, match="queue of tool calls is full at 3"):
            submit(scheduler, pid=3)

    def test_a_call_that_left_is_not_picked(self) -> None:
        scheduler = make_scheduler()
        gone, stays = submit(scheduler), submit(scheduler)
        scheduler.end(gone, 0.0)
        scheduler.end(gone, 0.0)
        assert picked(scheduler) == [stays]


class TestExclusiveResources:
    def test_two_tools_that_need_the_same_thing_never_overlap(self) -> None:
        scheduler = make_scheduler()
        reader = submit(scheduler, "read_scanner", exclusive=("scanner",))
        cleaner = submit(scheduler, "clean_scanner", exclusive=("scanner", "brush"))
        assert picked(scheduler) == [reader]

        scheduler.end(reader, 1.0)

        assert picked(scheduler) == [cleaner]

    def test_a_call_that_waits_for_two_is_not_overtaken_for_ever_by_those_that_need_one(
        self,
    ) -> None:
        scheduler = make_scheduler()
        left = submit(scheduler, "left", exclusive=("a",))
        picked(scheduler)
        both = submit(scheduler, "both", exclusive=("a", "b"))
        submit(scheduler, "right", exclusive=("b",))
        assert picked(scheduler) == []  # b is free, and claimed by the call that waits for both

        scheduler.end(left, 1.0)

        assert picked(scheduler) == [both]

    def test_a_call_that_lingers_keeps_its_resources_and_frees_its_worker(self) -> None:
        scheduler = make_scheduler(max_running=1)
        stuck = submit(scheduler, "stuck", exclusive=("lock",))
        picked(scheduler)
        other, needs = submit(scheduler, "other"), submit(scheduler, "needs", exclusive=("lock",))

        scheduler.mark_lingering(stuck, 1.0)

        assert picked(scheduler, 1.0) == [other]
        scheduler.end(other, 1.0)
        assert picked(scheduler, 1.0) == []
        scheduler.end(stuck, 2.0)
        assert picked(scheduler, 2.0) == [needs]

    def test_who_needs_what_a_hanging_call_holds_is_refused_instead_of_waiting(self) -> None:
        scheduler = make_scheduler()
        scheduler.mark_lingering(
            _started(scheduler, submit(scheduler, "stuck", exclusive=("lock",))), 0.0
        )
        submit(scheduler, "patient", exclusive=("lock",), now=0.5)

        with pytest.raises(ToolUnavailable, match="which a hanging call of stuck@1 holds"):
            submit(scheduler, "late", exclusive=("lock",), now=5.0)

    def test_a_tool_whose_calls_all_hang_refuses_more(self) -> None:
        scheduler = make_scheduler()
        scheduler.mark_lingering(_started(scheduler, submit(scheduler, parallel=1)), 0.0)
        with pytest.raises(ToolUnavailable, match="as many of them hang"):
            submit(scheduler, parallel=1, now=5.0)

    def test_too_many_hanging_calls_take_workers_away(self) -> None:
        scheduler = make_scheduler(max_running=1, max_lingering=1)
        for number in range(2):
            ticket = _started(scheduler, submit(scheduler, f"t{number}"))
            scheduler.mark_lingering(ticket, 0.0)
        submit(scheduler, "next")
        assert picked(scheduler) == []


class TestPolicies:
    def test_under_fair_a_heavy_agent_does_not_starve_a_light_one(self) -> None:
        scheduler = make_scheduler(Fair(), max_running=1)
        heavy = [submit(scheduler, pid=1) for _ in range(50)]
        assert picked(scheduler) == heavy[:1]
        light = submit(scheduler, pid=2)

        scheduler.end(heavy[0], 1.0)

        assert picked(scheduler, 1.0) == [light]

    def test_under_fair_groups_share_before_agents_do(self) -> None:
        scheduler = make_scheduler(Fair(), max_running=1)
        crowd = [submit(scheduler, pid=pid, group="crowd") for pid in range(1, 21)]
        alone = [submit(scheduler, pid=99, group="alone") for _ in range(3)]
        served: list[ToolTicket] = []
        for now in range(6):
            served += picked(scheduler, float(now))
            scheduler.end(served[-1], now + 1.0)
        assert sum(ticket in alone for ticket in served) == 3
        assert sum(ticket in crowd for ticket in served) == 3

    def test_fifo_keeps_the_order_of_arrival(self) -> None:
        scheduler = make_scheduler(FIFO(), max_running=1)
        tickets = [submit(scheduler, f"t{number % 3}", pid=number % 2) for number in range(6)]
        served = []
        for _ in tickets:
            served += picked(scheduler)
            scheduler.end(served[-1], 1.0)
        assert served == tickets

    def test_priority_puts_the_urgent_first_also_of_one_agent(self) -> None:
        scheduler = make_scheduler(Priority(), max_running=1)
        running = _started(scheduler, submit(scheduler))
        submit(scheduler, priority=5)
        urgent = submit(scheduler, priority=0)
        scheduler.end(running, 0.0)
        assert picked(scheduler) == [urgent]

    def test_a_call_that_waited_too_long_is_overtaken_no_more(self) -> None:
        scheduler = make_scheduler(LAS(max_wait_s=10.0), max_running=1)
        running = _started(scheduler, submit(scheduler, pid=1))
        scheduler.end(running, 100.0)  # agent 1 has had much
        old = submit(scheduler, pid=1, now=100.0)
        fresh = submit(scheduler, pid=2, now=105.0)
        assert scheduler.pick(109.0) is fresh
        scheduler.end(fresh, 109.0)
        submit(scheduler, pid=3, now=109.0)
        assert scheduler.pick(111.0) is old

    def test_auto_follows_the_load(self) -> None:
        scheduler = make_scheduler(Auto(), max_running=1)
        heavy = [submit(scheduler, pid=1, group="a") for _ in range(5)]
        picked(scheduler)
        light = submit(scheduler, pid=2, group="b")
        scheduler.end(heavy[0], 10.0)
        assert picked(scheduler, 10.0) == [light]

    def test_a_long_call_is_charged_when_it_ends_and_a_guess_when_it_begins(self) -> None:
        scheduler = make_scheduler(Fair(), max_running=2)
        long, short = submit(scheduler, pid=1), submit(scheduler, pid=2)
        picked(scheduler)
        scheduler.end(long, 10.0)
        scheduler.end(short, 10.0)
        assert long.agent.service == pytest.approx(10_000)


def _started(scheduler: ToolScheduler, ticket: ToolTicket) -> ToolTicket:
    assert scheduler.pick(ticket.queued_at) is ticket
    return ticket


RESOURCES = ("a", "b", "c")


class Machine(RuleBasedStateMachine):
    """Any calls in any order, under any policy: nothing overlaps, deadlocks or starves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler = make_scheduler(
            max_running=3, max_running_per_agent=2, max_processes=1, max_lingering=2
        )
        self.waited: dict[int, int] = {}  # by turn: calls that began since it waits

    @rule(name=st.sampled_from(sorted(POLICIES)))
    def reorder(self, name: str) -> None:
        policy = POLICIES[name]()
        self.scheduler._configured = GuardedPolicy(policy)

    @rule(
        pid=st.integers(1, 4),
        exclusive=st.sets(st.sampled_from(RESOURCES)),
        parallel=st.none() | st.integers(1, 2),
        is_process=st.booleans(),
        priority=st.integers(0, 3),
    )
    def submit(
        self, pid: int, exclusive: set[str], parallel: int | None, is_process: bool, priority: int
    ) -> None:
        needs = tuple(sorted(exclusive))
        name = f"t_{''.join(needs)}_{parallel}_{is_process}"
        try:
            submit(
                self.scheduler,
                name,
                pid=pid,
                group=f"group {pid % 2}",
                priority=priority,
                exclusive=needs,
                parallel=parallel,
                isolation="process" if is_process else "thread",
                now=self.now,
            )
        except ToolUnavailable:
            assert any(ticket.state is TicketState.LINGERING for ticket in self.scheduler)

    @rule()
    def start(self) -> None:
        picked(self.scheduler, self.now)

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: any(True for _ in self.scheduler))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.scheduler.end(data.draw(st.sampled_from(list(self.scheduler))), self.now)

    @precondition(lambda self: any(t.state is TicketState.RUNNING for t in self.scheduler))
    @rule(data=st.data())
    def mark_lingering(self, data: st.DataObject) -> None:
        running = [ticket for ticket in self.scheduler if ticket.state is TicketState.RUNNING]
        self.scheduler.mark_lingering(data.draw(st.sampled_from(running)), self.now)

    @invariant()
    def nothing_overlaps(self) -> None:
        self.scheduler.check()
        at_work = [
            ticket
            for ticket in self.scheduler
            if ticket.state in (TicketState.RUNNING, TicketState.LINGERING)
        ]
        held = [resource for ticket in at_work for resource in ticket.tool.exclusive]
        assert len(held) == len(set(held))
        for ticket in at_work:
            same = [one for one in at_work if one.queue is ticket.queue]
            assert ticket.tool.parallel is None or len(same) <= ticket.tool.parallel
        processes = [ticket for ticket in at_work if ticket.tool.isolation == "process"]
        assert len(processes) <= 1

    @invariant()
    def nothing_is_lost(self) -> None:
        """All waiting calls can be served by ending running ones: no deadlock, nothing lost."""
        if any(ticket.state is not TicketState.WAITING for ticket in self.scheduler):
            return
        if self.scheduler.num_waiting:
            assert self.scheduler.pick(self.now) is not None

    def teardown(self) -> None:
        """All waiting calls are served once running ones end: nothing starves."""
        for ticket in tuple(self.scheduler):
            if ticket.state is not TicketState.WAITING:
                self.scheduler.end(ticket, self.now)
        waiting = len(tuple(self.scheduler))
        for _ in range(waiting):
            self.now += 1.0
            ticket = self.scheduler.pick(self.now)
            assert ticket is not None
            self.scheduler.end(ticket, self.now)
        assert not tuple(self.scheduler)
        self.scheduler.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_call_that_needs_everything_is_served_among_a_stream_of_others(name: str) -> None:
    """Calls for a and for b keep arriving; the one that needs both runs in bounded time."""
    scheduler = make_scheduler(POLICIES[name](), max_running=4)
    now = 0.0
    running = [
        _started(scheduler, submit(scheduler, "a", pid=1, exclusive=("a",))),
        _started(scheduler, submit(scheduler, "b", pid=2, exclusive=("b",))),
    ]
    both = submit(scheduler, "both", pid=3, exclusive=("a", "b"))
    for step in range(200):
        now += 1.0
        submit(scheduler, "a", pid=1, exclusive=("a",), now=now)
        submit(scheduler, "b", pid=2, exclusive=("b",), now=now)
        if running:
            scheduler.end(running.pop(step % len(running)), now)
        running += picked(scheduler, now)
        if both.state is TicketState.RUNNING:
            break
    assert both.state is TicketState.RUNNING
