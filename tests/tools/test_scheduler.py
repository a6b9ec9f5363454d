"""Which tool call runs next: limits, exclusive resources, fairness. No clock, no thread."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios_core import Overloaded, Rate, ToolUnavailable
from aios_core.queueing.ranked_queue import GuardedPolicy
from aios_core.scheduler import FIFO, LAS, POLICIES, Auto, Fair, Policy, Priority
from aios_core.tools.scheduler import Limits, Schedule
from aios_core.tools.tool_queue import Turn, TurnState

from .rig import make


def schedule(policy: Policy | None = None, **limits: Any) -> Schedule:
    return Schedule(Limits(**limits), policy or FIFO())


def submit(
    books: Schedule, name: str = "t", *, pid: int = 1, now: float = 0.0, **declared: Any
) -> Turn:
    options = {key: declared.pop(key) for key in ("priority", "group") if key in declared}
    tool = make(name, lambda: None, **declared)
    return books.submit(
        tool,
        f":{tool.id}",
        pid=pid,
        agent=(f"agent {pid}", 1.0),
        group=(options.get("group", "default"), 1.0),
        priority=options.get("priority", 0),
        now=now,
    )


def picked(books: Schedule, now: float = 0.0) -> list[Turn]:
    found = []
    while (turn := books.pick(now)) is not None:
        found.append(turn)
    books.check()
    return found


class TestLimits:
    def test_no_more_run_than_there_are_workers(self) -> None:
        books = schedule(max_running=2)
        turns = [submit(books, pid=pid) for pid in range(3)]
        assert picked(books) == turns[:2]

        books.end(turns[0], 1.0)

        assert picked(books) == turns[2:]

    def test_one_agent_cannot_take_every_worker(self) -> None:
        books = schedule(max_running=4, max_running_per_agent=2)
        heavy = [submit(books, pid=1) for _ in range(5)]
        light = submit(books, pid=2)
        assert picked(books) == [*heavy[:2], light]

        books.end(heavy[0], 1.0)

        assert picked(books) == [heavy[2]]

    def test_a_tool_runs_as_many_times_at_once_as_it_says(self) -> None:
        books = schedule()
        turns = [submit(books, "narrow", parallel=1) for _ in range(2)]
        wide = submit(books, "wide")
        assert picked(books) == [turns[0], wide]

    def test_processes_are_bounded(self) -> None:
        books = schedule(max_processes=1)
        turns = [submit(books, f"t{number}", isolation="process") for number in range(2)]
        assert picked(books) == turns[:1]

    def test_a_rate_says_when_the_next_call_may_begin(self) -> None:
        books = schedule()
        first = submit(books, rate=Rate(1, per_s=2.0))
        second = submit(books, rate=Rate(1, per_s=2.0))
        assert picked(books) == [first]
        assert books.next_at(0.0) == 2.0
        assert picked(books, 1.9) == []
        assert picked(books, 2.0) == [second]

    def test_full_queues_refuse_with_a_time(self) -> None:
        books = schedule(max_waiting=3, max_waiting_per_agent=2)
        submit(books, pid=1)
        submit(books, pid=1)
        with pytest.raises(Overloaded, match="agent 1"):
            submit(books, pid=1)
        submit(books, pid=2)
        with pytest.raises(Overloaded, match="queue of tool calls is full at 3"):
            submit(books, pid=3)

    def test_a_call_that_left_is_not_picked(self) -> None:
        books = schedule()
        gone, stays = submit(books), submit(books)
        books.end(gone, 0.0)
        books.end(gone, 0.0)
        assert picked(books) == [stays]


class TestExclusiveResources:
    def test_two_tools_that_need_the_same_thing_never_overlap(self) -> None:
        books = schedule()
        reader = submit(books, "read_scanner", exclusive=("scanner",))
        cleaner = submit(books, "clean_scanner", exclusive=("scanner", "brush"))
        assert picked(books) == [reader]

        books.end(reader, 1.0)

        assert picked(books) == [cleaner]

    def test_a_call_that_waits_for_two_is_not_overtaken_for_ever_by_those_that_need_one(
        self,
    ) -> None:
        books = schedule()
        left = submit(books, "left", exclusive=("a",))
        picked(books)
        both = submit(books, "both", exclusive=("a", "b"))
        submit(books, "right", exclusive=("b",))
        assert picked(books) == []  # b is free, and claimed by the call that waits for both

        books.end(left, 1.0)

        assert picked(books) == [both]

    def test_a_call_that_lingers_keeps_its_resources_and_frees_its_worker(self) -> None:
        books = schedule(max_running=1)
        stuck = submit(books, "stuck", exclusive=("lock",))
        picked(books)
        other, needs = submit(books, "other"), submit(books, "needs", exclusive=("lock",))

        books.linger(stuck, 1.0)

        assert picked(books, 1.0) == [other]
        books.end(other, 1.0)
        assert picked(books, 1.0) == []
        books.end(stuck, 2.0)
        assert picked(books, 2.0) == [needs]

    def test_who_needs_what_a_hanging_call_holds_is_refused_instead_of_waiting(self) -> None:
        books = schedule()
        books.linger(_started(books, submit(books, "stuck", exclusive=("lock",))), 0.0)
        submit(books, "patient", exclusive=("lock",), now=0.5)

        with pytest.raises(ToolUnavailable, match="which a call of stuck@1 holds that hangs"):
            submit(books, "late", exclusive=("lock",), now=5.0)

    def test_a_tool_whose_calls_all_hang_refuses_more(self) -> None:
        books = schedule()
        books.linger(_started(books, submit(books, parallel=1)), 0.0)
        with pytest.raises(ToolUnavailable, match="as many calls of it hang"):
            submit(books, parallel=1, now=5.0)

    def test_too_many_hanging_calls_take_workers_away(self) -> None:
        books = schedule(max_running=1, max_lingering=1)
        for number in range(2):
            turn = _started(books, submit(books, f"t{number}"))
            books.linger(turn, 0.0)
        submit(books, "next")
        assert picked(books) == []


class TestPolicies:
    def test_under_fair_a_heavy_agent_does_not_starve_a_light_one(self) -> None:
        books = schedule(Fair(), max_running=1)
        heavy = [submit(books, pid=1) for _ in range(50)]
        assert picked(books) == heavy[:1]
        light = submit(books, pid=2)

        books.end(heavy[0], 1.0)

        assert picked(books, 1.0) == [light]

    def test_under_fair_groups_share_before_agents_do(self) -> None:
        books = schedule(Fair(), max_running=1)
        crowd = [submit(books, pid=pid, group="crowd") for pid in range(1, 21)]
        alone = [submit(books, pid=99, group="alone") for _ in range(3)]
        served: list[Turn] = []
        for now in range(6):
            served += picked(books, float(now))
            books.end(served[-1], now + 1.0)
        assert sum(turn in alone for turn in served) == 3
        assert sum(turn in crowd for turn in served) == 3

    def test_fifo_keeps_the_order_of_arrival(self) -> None:
        books = schedule(FIFO(), max_running=1)
        turns = [submit(books, f"t{number % 3}", pid=number % 2) for number in range(6)]
        served = []
        for _ in turns:
            served += picked(books)
            books.end(served[-1], 1.0)
        assert served == turns

    def test_priority_puts_the_urgent_first_also_of_one_agent(self) -> None:
        books = schedule(Priority(), max_running=1)
        running = _started(books, submit(books))
        submit(books, priority=5)
        urgent = submit(books, priority=0)
        books.end(running, 0.0)
        assert picked(books) == [urgent]

    def test_a_call_that_waited_too_long_is_overtaken_no_more(self) -> None:
        books = schedule(LAS(max_wait_s=10.0), max_running=1)
        running = _started(books, submit(books, pid=1))
        books.end(running, 100.0)  # agent 1 has had much
        old = submit(books, pid=1, now=100.0)
        fresh = submit(books, pid=2, now=105.0)
        assert books.pick(109.0) is fresh
        books.end(fresh, 109.0)
        submit(books, pid=3, now=109.0)
        assert books.pick(111.0) is old

    def test_auto_follows_the_load(self) -> None:
        books = schedule(Auto(), max_running=1)
        heavy = [submit(books, pid=1, group="a") for _ in range(5)]
        picked(books)
        light = submit(books, pid=2, group="b")
        books.end(heavy[0], 10.0)
        assert picked(books, 10.0) == [light]

    def test_a_long_call_is_charged_when_it_ends_and_a_guess_when_it_begins(self) -> None:
        books = schedule(Fair(), max_running=2)
        long, short = submit(books, pid=1), submit(books, pid=2)
        picked(books)
        books.end(long, 10.0)
        books.end(short, 10.0)
        assert long.agent.service == pytest.approx(10_000)


def _started(books: Schedule, turn: Turn) -> Turn:
    assert books.pick(turn.queued_at) is turn
    return turn


RESOURCES = ("a", "b", "c")


class Machine(RuleBasedStateMachine):
    """Any calls, in any order, under any policy: nothing overlaps, deadlocks or starves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.books = schedule(
            max_running=3, max_running_per_agent=2, max_processes=1, max_lingering=2
        )
        self.waited: dict[int, int] = {}  # by turn: calls that began since it waits

    @rule(name=st.sampled_from(sorted(POLICIES)))
    def use(self, name: str) -> None:
        policy = POLICIES[name]()
        self.books._configured = GuardedPolicy(policy)

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
                self.books,
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
            assert any(turn.state is TurnState.LINGERING for turn in self.books)

    @rule()
    def start(self) -> None:
        picked(self.books, self.now)

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: any(True for _ in self.books))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.books.end(data.draw(st.sampled_from(list(self.books))), self.now)

    @precondition(lambda self: any(t.state is TurnState.RUNNING for t in self.books))
    @rule(data=st.data())
    def linger(self, data: st.DataObject) -> None:
        running = [turn for turn in self.books if turn.state is TurnState.RUNNING]
        self.books.linger(data.draw(st.sampled_from(running)), self.now)

    @invariant()
    def nothing_overlaps(self) -> None:
        self.books.check()
        at_work = [
            turn for turn in self.books if turn.state in (TurnState.RUNNING, TurnState.LINGERING)
        ]
        held = [resource for turn in at_work for resource in turn.tool.exclusive]
        assert len(held) == len(set(held))
        for turn in at_work:
            same = [one for one in at_work if one.lane is turn.lane]
            assert turn.tool.parallel is None or len(same) <= turn.tool.parallel
        processes = [turn for turn in at_work if turn.tool.isolation == "process"]
        assert len(processes) <= 1

    @invariant()
    def nothing_is_lost(self) -> None:
        """Whatever waits can be served by ending what is there: no deadlock, nothing forgotten."""
        if any(turn.state is not TurnState.WAITING for turn in self.books):
            return
        if self.books.num_waiting:
            assert self.books.pick(self.now) is not None

    def teardown(self) -> None:
        """All that waits is served, once what runs ends: nothing starves."""
        for turn in tuple(self.books):
            if turn.state is not TurnState.WAITING:
                self.books.end(turn, self.now)
        waiting = len(tuple(self.books))
        for _ in range(waiting):
            self.now += 1.0
            turn = self.books.pick(self.now)
            assert turn is not None
            self.books.end(turn, self.now)
        assert not tuple(self.books)
        self.books.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_call_that_needs_everything_is_served_among_a_stream_of_others(name: str) -> None:
    """Calls for a and for b keep coming; the one that needs both has its turn in bounded time."""
    books = schedule(POLICIES[name](), max_running=4)
    now = 0.0
    running = [
        _started(books, submit(books, "a", pid=1, exclusive=("a",))),
        _started(books, submit(books, "b", pid=2, exclusive=("b",))),
    ]
    both = submit(books, "both", pid=3, exclusive=("a", "b"))
    for step in range(200):
        now += 1.0
        submit(books, "a", pid=1, exclusive=("a",), now=now)
        submit(books, "b", pid=2, exclusive=("b",), now=now)
        if running:
            books.end(running.pop(step % len(running)), now)
        running += picked(books, now)
        if both.state is TurnState.RUNNING:
            break
    assert both.state is TurnState.RUNNING
