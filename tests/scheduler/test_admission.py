"""The active set of a core: its decisions, and the invariants of its sums."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aios_core.core import CoreLoad
from aios_core.scheduler.admission import ActiveSet, AdmissionController, plan
from aios_core.scheduler.admission_waits import AdmissionWaits, Urgency
from aios_core.scheduler.context_sizes import ContextSize, SharedPrefix
from aios_core.scheduler.memory_share import LEAST, MOST, START, MemoryShare, SwappedShare
from aios_core.scheduler.prefill_rate import UNKNOWN_TTL_S, PrefillRate
from aios_core.scheduler.tool_gaps import ToolGaps
from tests.puppet import PuppetCore

CAPACITY = 1_000
RULES = SharedPrefix(("be brief",), 200)


def idle(
    active: ActiveSet, pid: int, num_tokens: int, *, progress: int = 0, leaves_at: float = 9.0
) -> None:
    """Make an agent active with a context of that many tokens, and no call."""
    size = ContextSize(num_tokens)
    active.begin(pid, size, progress)
    active.end(pid, size, num_tokens, leaves_at)


def decide(active: ActiveSet, pid: int, num_tokens: int, now: float = 0.0, **how: bool) -> object:
    decision = plan(active, pid, ContextSize(num_tokens), capacity=CAPACITY, now=now, **how)
    return (decision.fits, decision.evicted)


# --- decisions ------------------------------------------------------------------------------------


def test_new_agents_get_nine_tenths_of_the_memory_and_active_ones_the_rest_too() -> None:
    active = ActiveSet()
    idle(active, 1, 500)

    assert decide(active, 2, 400) == (True, ())
    assert decide(active, 2, 401) == (False, ())
    assert decide(active, 1, 1_000) == (True, ())


def test_an_idle_agent_leaves_for_a_new_one_only_after_its_time() -> None:
    active = ActiveSet()
    idle(active, 1, 500, leaves_at=5.0)
    idle(active, 2, 300, leaves_at=3.0)

    assert decide(active, 3, 400, now=2.0) == (False, ())
    assert decide(active, 3, 400, now=4.0) == (True, (2,))
    assert decide(active, 3, 400, now=6.0) == (True, (2,)), "the one that was idle longest"
    assert decide(active, 3, 900, now=6.0) == (True, (2, 1))


def test_an_agent_with_less_progress_leaves_for_an_active_one() -> None:
    active = ActiveSet()
    idle(active, 1, 400, progress=5)
    idle(active, 2, 300, progress=2)
    idle(active, 3, 300, progress=7)

    assert decide(active, 1, 600) == (True, (2,))
    assert decide(active, 2, 600) == (False, (2,)), "its own place serves the others better"


def test_a_working_agent_never_leaves() -> None:
    active = ActiveSet()
    active.begin(1, ContextSize(600), 0)
    idle(active, 2, 300, progress=9)

    assert decide(active, 2, 500) == (False, (2,))
    assert decide(active, 3, 500, now=99.0, is_overdue=True) == (False, ())


def test_a_call_that_is_larger_than_the_memory_runs_alone() -> None:
    active = ActiveSet()
    assert decide(active, 1, 5_000) == (True, ())
    idle(active, 2, 10, leaves_at=5.0)

    assert decide(active, 1, 5_000, now=1.0) == (False, ())
    assert decide(active, 1, 5_000, now=1.0, is_overdue=True) == (True, (2,))
    assert decide(active, 1, 5_000, now=6.0) == (True, (2,))


def test_a_shared_prefix_counts_once() -> None:
    active = ActiveSet()
    for pid in range(8):
        size = ContextSize(250, RULES)
        assert plan(active, pid, size, capacity=CAPACITY, now=0.0).fits
        active.begin(pid, size, 0)

    assert active.num_tokens == 200 + 8 * 50
    active.end(3, ContextSize(250, RULES), 280, 9.0)
    assert active.num_tokens == 200 + 7 * 50 + 80
    for pid in range(8):
        active.drop(pid)
    assert active.num_tokens == 0


def test_calls_of_one_agent_at_the_same_time_all_count() -> None:
    active = ActiveSet()
    active.begin(2, ContextSize(10), 0)
    for _ in range(3):
        active.begin(1, ContextSize(300), 0)

    assert active.num_tokens == 910
    assert decide(active, 1, 300) == (False, ())


def test_a_tool_that_takes_long_frees_the_memory_at_once() -> None:
    core = PuppetCore(kv_capacity=CAPACITY)
    admission, size = AdmissionController(), ContextSize(600)
    for leaves in (False, True):
        admission.admit(core, 1, size)
        admission.release(core, core.load(), 1, size, num_tokens=600, now=0.0, leaves=leaves)

        assert admission.plan(core, core.load(), 2, size, now=0.0).fits == leaves


# --- invariants -----------------------------------------------------------------------------------


class ActiveSetMachine(RuleBasedStateMachine):
    """Agents come, work, wait and leave; only what the plans allow is applied."""

    def __init__(self) -> None:
        super().__init__()
        self.active = ActiveSet()
        self.now = 0.0
        self.running: list[tuple[int, ContextSize]] = []

    @rule(
        pid=st.integers(0, 5),
        num_tokens=st.integers(1, 1_500),
        is_shared=st.booleans(),
        is_overdue=st.booleans(),
    )
    def call(self, pid: int, num_tokens: int, *, is_shared: bool, is_overdue: bool) -> None:
        size = ContextSize(num_tokens, RULES if is_shared else None)
        before = self.active.num_tokens
        decision = plan(
            self.active, pid, size, capacity=CAPACITY, now=self.now, is_overdue=is_overdue
        )
        assert self.active.num_tokens == before, "a plan changes nothing"
        busy = {other for other, _ in self.running}
        assert not busy & set(decision.evicted), "no working agent leaves"
        for other in decision.evicted:
            self.active.drop(other)
        if not decision.fits:
            return
        others = [it for other, it in self.active.agents.items() if other != pid]
        self.active.begin(pid, size, 0)
        self.running.append((pid, size))
        is_alone = not any(it.num_tokens for it in others)
        assert is_alone or self.active.num_tokens <= CAPACITY, "nothing is oversold"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), stays=st.integers(0, 900), ttl=st.floats(0, 9))
    def answer(self, data: st.DataObject, stays: int, ttl: float) -> None:
        pid, size = data.draw(st.sampled_from(self.running))
        self.running.remove((pid, size))
        self.active.end(pid, size, min(stays, size.num_tokens), self.now + ttl)

    @rule(pid=st.integers(0, 5))
    def exit(self, pid: int) -> None:
        if not any(other == pid for other, _ in self.running):
            self.active.drop(pid)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def sums_are_right(self) -> None:
        assert self.active.num_tokens == self.active.sum()
        assert all(agent.num_tokens >= 0 for agent in self.active.agents.values())
        busy = {pid for pid, _ in self.running}
        assert busy == {pid for pid, agent in self.active.agents.items() if not agent.is_idle}

    @invariant()
    def somebody_can_always_run(self) -> None:
        """Once all calls have ended and time has passed, any call fits."""
        if not self.running:
            for num_tokens in (1, 5_000):
                size, later = ContextSize(num_tokens), self.now + 100
                assert plan(self.active, 99, size, capacity=CAPACITY, now=later).fits


TestActiveSet = ActiveSetMachine.TestCase
TestActiveSet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- the share of the memory ----------------------------------------------------------------------


def test_the_share_falls_while_warm_contexts_are_not_found() -> None:
    share = MemoryShare()
    for _ in range(200):
        share.cached(600, 0, CAPACITY, is_short=True)

    assert share.share == LEAST


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900), st.booleans())))
def test_the_share_never_sells_more_than_there_is(calls: list[tuple[int, int, bool]]) -> None:
    share = MemoryShare()
    for expected, found, is_short in calls:
        share.cached(expected, found, CAPACITY, is_short=is_short)

        assert LEAST <= share.share <= MOST
        assert share.limit(CAPACITY, is_active=True) <= CAPACITY


def test_the_share_rises_only_while_calls_wait_and_all_is_found() -> None:
    share = MemoryShare()
    share.cached(600, 600, CAPACITY, is_short=False)
    assert share.share == START
    share.cached(600, 600, CAPACITY, is_short=True)
    assert share.share > START


def test_preemptions_of_the_engine_cut_the_share_once_a_second() -> None:
    share = MemoryShare()
    for num in (5, 6, 7):
        load = CoreLoad(1, 1, kv_capacity=CAPACITY, num_engine_preemptions=num)
        share.look(load, now=10.0)

    assert share.share == pytest.approx(START * 0.95)


def test_more_than_the_memory_is_promised_where_contexts_can_be_moved() -> None:
    share = SwappedShare()
    for _ in range(1_000):
        share.look(CoreLoad(1, 1, kv_tokens=0, kv_capacity=CAPACITY), now=0.0)
    assert share.limit(CAPACITY, is_active=False) > CAPACITY
    for _ in range(1_000):
        share.look(CoreLoad(1, 1, kv_tokens=CAPACITY, kv_capacity=CAPACITY), now=0.0)
    assert share.limit(CAPACITY, is_active=False) < CAPACITY


# --- time -----------------------------------------------------------------------------------------


def test_a_context_is_worth_its_memory_as_long_as_the_memory_takes_to_fill() -> None:
    rate, load = PrefillRate(), CoreLoad(1, 0, kv_capacity=10_000)
    assert rate.time_to_live(load) == UNKNOWN_TTL_S

    rate.learn(1_000, 0.5, num_sharing=1)
    assert rate.time_to_live(load) == 5.0
    rate.learn(1_000, 9.0, num_sharing=12)
    rate.learn(3, 0.5, num_sharing=1)
    assert rate.time_to_live(load) == 5.0, "neither a crowd nor a short prompt shows the rate"
    assert rate.time_to_live(CoreLoad(1, 0, kv_capacity=10_000, prefill_rate=5_000.0)) == 2.0


def test_a_tool_has_the_time_that_its_agents_were_away() -> None:
    gaps = ToolGaps()
    for seconds in (8.0, 10.0, 50.0):
        gaps.left(1, ["build"], now=0.0)
        gaps.returned(1, now=seconds)
        gaps.left(2, ["grep", "build"], now=0.0)
        gaps.returned(2, now=seconds)

    assert gaps.usual_s(["build"]) == 10.0
    assert gaps.usual_s(["grep", "build"]) == 10.0
    assert gaps.usual_s(["grep"]) is None, "two tools at once show the time of neither"


def test_the_wait_of_a_large_prompt_is_bounded_by_the_waits_of_small_ones() -> None:
    waits = AdmissionWaits()
    assert waits.urgency(59.0, ttl_s=1.0) is Urgency.USUAL
    assert waits.urgency(61.0, ttl_s=1.0) is Urgency.OVERDUE

    for num_tokens, waited_s in ((100, 1.0), (120, 2.0), (9_000, 50.0), (110, 2.0), (8_000, 70.0)):
        waits.admitted(num_tokens, waited_s)

    assert waits.urgency(5.9, ttl_s=1.0) is Urgency.USUAL
    assert waits.urgency(6.1, ttl_s=1.0) is Urgency.OVERDUE
    assert waits.urgency(7.9, ttl_s=1.0) is Urgency.DRAINS
    assert waits.bound_s(ttl_s=20.0) == 60.0
