"""Calls wait for budgets, reserve estimates and are never overspent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aios_core import Budget, BudgetExceeded, DeadlineExceeded, EventKind, FinishReason, Price
from aios_core.core import Progress
from aios_core.messages import Delta, Usage
from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler import Priority
from aios_core.scheduler.overload import QueueLimits
from aios_core.testing import run_virtual
from tests.puppet import PuppetCore, settled, virtual

from .rig import BlurredCore, Rig, answer, facts, rigged

LITTLE = QueueLimits(expected_answer_tokens=20)


# --- waiting --------------------------------------------------------------------------------------


@virtual
async def test_a_call_that_fits_what_is_unspent_waits_for_what_is_reserved() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core) as rig:
        agent = rig.agent("ann", budget=Budget(tokens=25))
        rig.submit(agent, "word", max_tokens=19)
        syscall, caller = rig.submit(agent, "word", max_tokens=9)
        await settled()

        assert len(core.runs) == 1
        assert rig.dispatcher.calls_of(agent)[1].status == (
            "waiting for calls that have reserved what is left of agent 'ann'"
        )
        core.progress(num_tokens=3)
        core.finish()
        await settled()
        assert list(core.runs) == [syscall.id]
        core.finish()
        await settled()
        assert caller.text == "done"
        assert facts(rig, EventKind.WAITING_FOR_BUDGET) == [{"budget": "agent 'ann'"}]


@virtual
async def test_a_call_that_waits_is_refused_once_others_have_spent_what_it_needs() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=25))
        rig.submit(agent, "word", max_tokens=19)
        _, caller = rig.submit(agent, "word", max_tokens=9)
        core.progress(num_tokens=16)
        core.finish()
        await settled()

        error = caller.error
        assert isinstance(error, BudgetExceeded)
        assert (error.spent, error.reserved, error.limit, error.requested) == (17, 0, 25, 10)


@virtual
async def test_calls_wait_for_calls_and_for_money_too() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core, price=Price(1e6, 1e6)) as rig:
        for budget in (Budget(calls=2), Budget(money=22)):
            parent = rig.agent("parent", budget=budget)
            children = [rig.agent("child", parent=parent.pid) for _ in range(3)]
            callers = [rig.submit(child, "word", max_tokens=10)[1] for child in children]
            await settled()

            assert len(core.runs) == 2
            assert [caller.outcome for caller in callers] == [None] * 3
            core.finish()
            core.finish()
            await settled()
            is_served = budget.calls is None
            assert (callers[2].error is None) == is_served
            if is_served:
                core.finish()


@virtual
async def test_a_deadline_ends_a_call_that_waits_for_a_budget_and_the_next_gets_its_turn() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=25))
        rig.submit(agent, "word", max_tokens=14)
        _, large = rig.submit(agent, "word", max_tokens=19, timeout_s=1.0)
        _, small = rig.submit(agent, "word", max_tokens=9)
        await settled()
        assert len(core.runs) == 1, "a small call does not overtake a large one that waits"

        await asyncio.sleep(2.0)
        assert isinstance(large.error, DeadlineExceeded)
        assert "waiting for calls that have reserved" in str(large.error)
        assert len(core.runs) == 2
        core.finish()
        core.finish()
        await settled()
        assert small.text == "done"


@virtual
async def test_who_waits_for_a_budget_gets_it_in_the_order_of_the_policy() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core, policy=Priority()) as rig:
        agent = rig.agent(budget=Budget(tokens=20))
        rig.submit(agent, "first", max_tokens=19)
        for prompt, priority in [("later", 5), ("soon", 1), ("last", 9)]:
            rig.submit(agent, prompt, max_tokens=15, priority=priority)
        for _ in range(4):
            core.finish()
            await settled()

        order = [run.request.messages[-1].content for run in core.history]
        assert order == ["first", "soon", "later", "last"]


@virtual
async def test_a_call_that_waits_holds_no_slot() -> None:
    core = PuppetCore(slots=1)
    async with rigged(core) as rig:
        rig.table.add_group("team", budget=Budget(tokens=20))
        poor = rig.agent("poor", group="team")
        rich = rig.agent("rich")
        rig.submit(poor, "word", max_tokens=15)
        rig.submit(poor, "word", max_tokens=15)
        _, other = rig.submit(rich, "word")
        core.finish()
        await settled()
        core.finish()
        await settled()
        core.finish()
        await settled()

        assert other.text == "done"


@virtual
async def test_a_frozen_agent_stands_in_nobodys_way() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core) as rig:
        rig.table.add_group("team", budget=Budget(tokens=30))
        first, frozen, other = (rig.agent(n, group="team") for n in ("first", "frozen", "other"))
        rig.submit(first, "word", max_tokens=25)
        _, stays = rig.submit(frozen, "word", max_tokens=25)
        _, served = rig.submit(other, "word", max_tokens=25)
        frozen.state = ProcessState.FROZEN
        rig.dispatcher.freeze(frozen)
        core.finish()
        await settled()
        core.finish()
        await settled()

        assert served.text == "done"
        assert stays.outcome is None
        frozen.state = ProcessState.ACTIVE
        rig.dispatcher.thaw(frozen)
        core.finish()
        await settled()
        assert stays.text == "done"


# --- estimates ------------------------------------------------------------------------------------


@virtual
async def test_without_a_limit_of_its_own_a_call_reserves_what_answers_usually_have() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core, limits=LITTLE) as rig:
        agent = rig.agent(budget=Budget(tokens=1_000))
        for _ in range(4):
            rig.submit(agent, "word")
        assert agent.budget.reserved.tokens == 4 * (1 + 64), "the least step, before it is known"

        for size in (300, 200, 100, 100):
            core.progress(num_tokens=size // 10)
            core.finish()
            await settled()
        rig.submit(agent, "word")
        assert agent.budget.reserved.tokens == 1 + 64


@virtual
async def test_a_reservation_grows_with_the_answer() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core, limits=LITTLE) as rig:
        agent = rig.agent(budget=Budget(tokens=500))
        _, caller = rig.submit(agent, "word")
        for _ in range(40):
            core.progress(num_tokens=10)
            await settled()
            assert agent.budget.spent.tokens + agent.budget.reserved.tokens <= 500
        core.finish()
        await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.STOP
        assert agent.budget.spent.tokens == 401


@virtual
async def test_an_answer_that_outgrows_the_budget_ends_there_and_says_so() -> None:
    core = PuppetCore(preemptible=False)
    async with rigged(core, limits=LITTLE) as rig:
        agent = rig.agent(budget=Budget(tokens=100))
        syscall, caller = rig.submit(agent, "word")
        for _ in range(150):
            if core.runs:
                core.progress(text="w ")
                await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.LENGTH
        assert caller.completion.length_reason == "budget"
        assert caller.completion.usage == Usage(1, 99)
        assert caller.text == "w " * 99 == "".join(caller.deltas)
        assert core.asked_to_cancel == [syscall.id]
        assert agent.budget.spent.tokens == 100
        assert facts(rig, EventKind.CUT) == [{"reason": "budget", "limit": 99}]
        assert facts(rig, EventKind.DONE)[0]["length_reason"] == "budget"


@virtual
async def test_a_run_that_cannot_be_paid_further_gives_way_until_others_have_settled() -> None:
    core = PuppetCore(slots=2)
    async with rigged(core, limits=LITTLE) as rig:
        agent = rig.agent(budget=Budget(tokens=200))
        long, caller = rig.submit(agent, "long")
        rig.submit(agent, "short", max_tokens=120)
        for _ in range(75):
            if long.id in core.runs:
                core.progress(long.id, text="w ")
                await settled()

        assert core.asked_to_preempt == [long.id]
        assert long.id not in core.runs
        assert caller.outcome is None
        core.finish()
        await settled()
        assert long.id in core.runs
        core.finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_two_long_answers_that_wait_for_each_other_end_with_what_they_have() -> None:
    core = PuppetCore(slots=2)
    async with rigged(core, limits=LITTLE) as rig:
        agent = rig.agent(budget=Budget(tokens=200))
        callers = [rig.submit(agent, "long")[1] for _ in range(2)]
        for _ in range(300):
            for run_id in tuple(core.runs):
                core.progress(run_id, text="w ")
                await settled()

        assert all(caller.completion for caller in callers)
        reasons = [caller.completion.length_reason for caller in callers if caller.completion]
        assert reasons == ["budget"] * 2
        assert sum(len(caller.deltas) for caller in callers) <= 198
        assert agent.budget.spent.tokens <= 200


# --- nothing is ever overspent --------------------------------------------------------------------


SHARED = st.builds(
    Budget,
    tokens=st.none() | st.integers(0, 400),
    money=st.none() | st.integers(0, 400),
    calls=st.none() | st.integers(0, 6),
)


class Liar:
    """Ends its runs in some order, with some number of tokens, claiming anything."""

    def __init__(self, core: PuppetCore, dice: random.Random) -> None:
        self._core = core
        self._dice = dice

    def act(self) -> None:
        """Do one thing to one run."""
        core, dice = self._core, self._dice
        run_id = dice.choice(tuple(core.runs))
        acts: list[Callable[[], None]] = [
            lambda: core.tell(Progress(run_id, dice.choice((-3, 0, 1, 40)), self._delta())),
            lambda: core.tell(Progress(run_id, dice.choice((0, 1, 7)), self._delta())),
            lambda: answer(core, "w " * dice.choice((0, 3, 700)), self._usage(), run_id),
            lambda: core.stop(run_id),
            lambda: core.give_up(run_id),
        ]
        dice.choice(acts)()

    def _delta(self) -> Delta:
        return Delta(self._dice.choice(("", "w ", "w " * 30, "x" * 999)))

    def _usage(self) -> Usage:
        claims = (0, 1, -7, 30, 10**9, 2.5, float("nan"))
        return Usage(*(self._dice.choice(claims) for _ in range(3)))  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 2**32),
    group=SHARED,
    own=SHARED,
    is_exact=st.booleans(),
    preemptible=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_overspent_and_everything_accepted_ends(
    seed: int, group: Budget, own: Budget, is_exact: bool, preemptible: bool
) -> None:
    dice = random.Random(seed)

    async def main() -> None:
        make = PuppetCore if is_exact else BlurredCore
        core = make(slots=3, preemptible=preemptible)
        async with rigged(core, limits=LITTLE, price=Price(1e6, 1e6)) as rig:
            agents = _family(rig, group, own)
            for _ in range(10):
                _submit_some(rig, agents, dice)
                await _lie(rig, core, dice, num_acts=6)
            for _ in range(2_000):
                if all(caller.outcome is not None for caller in rig.callers):
                    return
                await asyncio.sleep(0 if core.runs else 1)  # those that are to be tried again
                await _lie(rig, core, dice, num_acts=1)
            raise AssertionError(f"no end: {[c for c in rig.callers if c.outcome is None]}")

    run_virtual(main())


def _family(rig: Rig, group: Budget, own: Budget) -> list[AgentProcess]:
    rig.table.add_group("team", budget=group)
    parent = rig.agent("parent", group="team")
    child = rig.agent("child", parent=parent.pid, budget=own)
    return [parent, child, rig.agent("other", group="team", budget=own)]


def _submit_some(rig: Rig, agents: list[AgentProcess], dice: random.Random) -> None:
    for _ in range(dice.choice((0, 1, 3))):
        limit = dice.choice((None, None, 1, 30, 300))
        rig.submit(dice.choice(agents), "w " * dice.choice((1, 20)), max_tokens=limit)


async def _lie(rig: Rig, core: PuppetCore, dice: random.Random, *, num_acts: int) -> None:
    liar = Liar(core, dice)
    for _ in range(num_acts):
        if core.runs:
            liar.act()
        if dice.random() < 0.05 and (calls := [c for c in _waiting(rig) if not c.is_answered]):
            rig.dispatcher.cancel(dice.choice(calls).syscall.id)
        await settled()
        rig.check()


def _waiting(rig: Rig) -> list[Any]:
    return [call for process in rig.table for call in rig.dispatcher.calls_of(process)]
