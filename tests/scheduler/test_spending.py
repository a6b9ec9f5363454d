"""Budgets make callers wait, not fail; nothing is overspent, whatever a core does or says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_core import Budget, BudgetExceeded, DeadlineExceeded, EventKind, FinishReason, Price
from aios_core.core import Finished, Prepared, Progress, Stopped
from aios_core.messages import Completion, Delta, Message, ToolCallDelta, Usage
from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler import Priority
from aios_core.scheduler.overload import QueueLimits
from aios_core.syscalls import LLMGenerate
from aios_core.testing import run_virtual
from tests.puppet import PuppetCore, settled, virtual

from .rig import Rig, rigged

LITTLE = QueueLimits(expected_answer_tokens=20)


class BlurredCore(PuppetCore):
    """A core that does not count its tokens, as an endpoint is."""

    def prepare(self, request: LLMGenerate) -> Prepared:
        prepared = super().prepare(request)
        assert isinstance(prepared, Prepared)
        return replace(prepared, num_tokens=100 + 4 * prepared.num_tokens, is_exact=False)


def answer(core: PuppetCore, text: str, usage: Usage, run_id: int | None = None) -> None:
    """End a run with this answer and this claim."""
    run_id = next(iter(core.runs)) if run_id is None else run_id
    del core.runs[run_id]
    said = Completion(Message("assistant", text), FinishReason.STOP, usage, "puppet")
    core.tell(Finished(run_id, said))


def kinds(rig: Rig) -> list[EventKind]:
    return [event.kind for event in rig.journal.events()]


def facts(rig: Rig, kind: EventKind) -> list[dict[str, Any]]:
    return [event.facts for event in rig.journal.events() if event.kind is kind]


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


# --- enforcement ----------------------------------------------------------------------------------


@virtual
async def test_a_core_that_ignores_the_callers_limit_is_stopped_there() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent(), "word", max_tokens=50)
        assert core.history[0].token_limit == 50
        for _ in range(60):
            if core.runs:
                core.progress(text="w ")
                await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.LENGTH
        assert caller.completion.length_reason == "max_tokens"
        assert caller.completion.usage.output_tokens == 50
        assert caller.text == "w " * 50
        assert core.asked_to_cancel == [syscall.id]


@virtual
async def test_a_cut_answer_is_booked_once_and_before_its_caller_has_it() -> None:
    core = BlurredCore(obeys=False)  # it takes its time to let go
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=300))
        syscall, caller = rig.submit(agent, "word")
        core.progress(num_tokens=400, text="w " * 400)
        await settled()

        assert caller.completion is not None
        cost = caller.completion.usage.total_tokens
        assert agent.accounting.usage == caller.completion.usage
        assert (agent.budget.spent.tokens, agent.budget.reserved.tokens) == (cost, 0)
        del core.runs[syscall.id]
        core.tell(Stopped(syscall.id, Usage(5, 400)))
        await settled()
        assert agent.accounting.usage == caller.completion.usage
        assert (agent.budget.spent.tokens, agent.budget.reserved.tokens) == (cost, 0)


@virtual
async def test_nothing_is_limited_where_nobody_set_a_limit() -> None:
    core = BlurredCore(window=100)
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(), "word")
        core.progress(num_tokens=500, text="w " * 500)
        core.finish(text="w " * 500)
        await settled()

        assert core.history[0].token_limit is None
        assert caller.completion is not None
        assert caller.completion.length_reason is None
        assert caller.text == "w " * 500


@pytest.mark.parametrize(
    ("delta", "kept"),
    [
        (Delta("w " * 3_000), 50),
        (Delta("x" * 30_000), 50),
        (Delta(tool_calls=(ToolCallDelta(0, "c", "add", "1, " * 9_000),)), 50),
    ],
    ids=["words", "bytes", "tool call"],
)
@virtual
async def test_many_tokens_in_one_piece_are_cut_at_the_limit(delta: Delta, kept: int) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=10_000))
        _, caller = rig.submit(agent, "word", max_tokens=50)
        core.tell(Progress(next(iter(core.runs)), 1, delta))
        await settled()

        assert caller.completion is not None
        message = caller.completion.message
        assert 0 < len(message.content) + sum(len(c.arguments) for c in message.tool_calls) <= 202
        assert caller.completion.usage.output_tokens == kept
        assert agent.budget.spent.tokens <= 60


@pytest.mark.parametrize("usage", [Usage(), Usage(1, 3_000), Usage(1, 20)], ids=repr)
@virtual
async def test_an_answer_that_comes_whole_is_cut_at_the_limit(usage: Usage) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=10_000))
        _, caller = rig.submit(agent, "word", max_tokens=50)
        answer(core, "w " * 3_000, usage)
        await settled()

        assert caller.completion is not None
        assert caller.completion.length_reason == "max_tokens"
        assert caller.text == "w " * 50
        assert agent.budget.spent.tokens <= 60
        assert EventKind.CUT in kinds(rig)


@virtual
async def test_an_answer_within_its_limit_is_not_touched() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(budget=Budget(tokens=1_000)), "word", max_tokens=50)
        for _ in range(50):
            core.progress(text="internationalisation ")
        answer(core, "internationalisation " * 50, Usage(5, 50))
        await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.STOP
        assert caller.completion.usage == Usage(5, 50)
        assert {EventKind.CUT, EventKind.CLAIM_REJECTED} & set(kinds(rig)) == set()


# --- claims ---------------------------------------------------------------------------------------


@virtual
async def test_a_backend_without_usage_is_booked_by_a_count_and_said_to_be() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=5_000))
        for _ in range(3):
            rig.submit(agent, "one two three four")
            for _ in range(60):
                core.progress(text="word ")
            answer(core, "word " * 60, Usage())
            await settled()

        assert agent.budget.spent.tokens == 3 * (8 + 60), "and not what bounds the prompt"
        assert agent.accounting.usage.is_estimated
        assert all(fact["is_estimated"] for fact in facts(rig, EventKind.DONE))


@virtual
async def test_the_estimate_of_a_prompt_follows_what_the_model_reported_before() -> None:
    core = BlurredCore(slots=8)
    prompt = "word " * 100
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent, prompt)
        answer(core, "a", Usage(104, 1))
        await settled()
        syscall, _ = rig.submit(agent, prompt)
        answer(core, "a", Usage())
        await settled()

        assert syscall.usage == Usage(104, 1, is_estimated=True)


@pytest.mark.parametrize("usage", [Usage(-5, 3), Usage(10**9, 3), Usage(5, 1), Usage(5, 3, 99)])
@virtual
async def test_figures_that_cannot_be_are_not_booked_and_an_event_says_so(usage: Usage) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent(), "word")
        for _ in range(3):
            core.progress(text="w ")
        answer(core, "w w w ", usage)
        await settled()

        assert 1 <= syscall.usage.input_tokens <= 5
        assert (syscall.usage.output_tokens, syscall.usage.cached_tokens) == (3, 0)
        assert caller.completion is not None
        assert caller.completion.usage == syscall.usage
        assert "claimed" in facts(rig, EventKind.CLAIM_REJECTED)[0]["reason"]


@virtual
async def test_a_prompt_that_was_sent_costs_what_it_was_even_if_nothing_came_back() -> None:
    core = BlurredCore(obeys=False)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=500))
        syscall, _ = rig.submit(agent, "one two three four")
        rig.dispatcher.cancel(syscall.id)
        del core.runs[syscall.id]
        core.tell(Stopped(syscall.id, Usage(116, 0, is_estimated=True)))
        await settled()

        assert syscall.usage == Usage(8, 0, is_estimated=True)
        assert agent.budget.spent.tokens == 8


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
