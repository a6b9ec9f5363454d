"""The fate of an answer after its core has failed in the middle of it."""

from __future__ import annotations

import asyncio

from aios_core import AnswerLost, Budget, CoreUnavailable, EventKind, Price, Usage
from aios_core.core import Capabilities
from aios_core.errors import SnapshotError
from aios_core.scheduler.overload import QueueLimits
from aios_core.snapshot import Snapshot
from tests.puppet import PuppetCore, settled, virtual

from .rig import BROKEN, LOST, BlurredCore, facts, rigged


class OtherModelCore(PuppetCore):
    """A core of the same model name with other weights: it continues no snapshot of others."""

    def can_continue(self, snapshot: Snapshot) -> bool:
        return snapshot.model == "other"


# --- it continues from its tokens ----------------------------------------------------------------


@virtual
async def test_an_answer_that_its_core_handed_over_goes_on_elsewhere() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    async with rigged(one, two) as rig:
        agent = rig.agent()
        syscall, caller = rig.submit(agent)
        first, second = (one, two) if one.runs else (two, one)
        first.progress(num_tokens=2, text="once upon ")
        first.break_off(LOST)
        await settled()
        (run,) = second.runs.values()
        second.progress(num_tokens=3, text="a time, and")
        second.finish(text="once upon a time, and")
        await settled()

        assert run.snapshot is not None
        assert run.snapshot.output_ids == (0, 1)
        assert caller.deltas == ["once upon ", "a time, and"]
        assert caller.text == "once upon a time, and"
        assert syscall.num_tokens == 5
        assert agent.accounting.usage == Usage(1, 5), "nothing was lost, nothing is paid twice"
        (fact,) = facts(rig, EventKind.RETRIED)
        assert (fact["tokens"], fact["lost_tokens"]) == (2, 0)


@virtual
async def test_an_answer_without_another_core_waits_for_its_own_to_come_back() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(num_tokens=2, text="once upon ")
        core.break_off(LOST)
        core.die(LOST)
        await asyncio.sleep(2)
        (run,) = core.runs.values()
        core.finish(text="once upon a time")
        await settled()

        assert run.snapshot is not None
        assert caller.text == "once upon a time"


@virtual
async def test_an_answer_survives_more_failures_than_attempts_while_it_advances() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_attempts=2)) as rig:
        _, caller = rig.submit(rig.agent())
        for _ in range(10):
            core.progress(text="word ")
            core.break_off(LOST)
            await asyncio.sleep(1)
        core.finish(text="word " * 10)
        await settled()

        assert caller.text == "word " * 10
        assert "".join(caller.deltas) == caller.text


@virtual
async def test_an_answer_that_stops_advancing_is_given_up_and_says_what_was_lost() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_attempts=3)) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(num_tokens=4, text="once upon a time")
        for _ in range(3):
            core.break_off(LOST)
            await asyncio.sleep(2)

        assert isinstance(caller.error, AnswerLost)
        assert caller.error.num_tokens == 4
        assert len(core.history) == 3


@virtual
async def test_an_answer_goes_on_only_where_its_model_is() -> None:
    one, other = PuppetCore("one"), OtherModelCore("other")
    async with rigged(one, other) as rig:
        other.pause(60)
        _, caller = rig.submit(rig.agent())
        one.progress(text="once ")
        other.paused_until = 0
        one.break_off(LOST)
        await asyncio.sleep(1)

        assert not other.history
        one.finish(text="once upon")
        await settled()
        assert caller.text == "once upon"


@virtual
async def test_a_suspended_answer_resumes_only_where_its_model_is() -> None:
    one, other = PuppetCore("one"), OtherModelCore("other")
    async with rigged(one, other) as rig:
        other.pause(60)
        agent = rig.agent()
        syscall, _ = rig.submit(agent)
        one.progress(text="once ")
        rig.dispatcher.freeze(agent)
        await settled()
        other.paused_until = 0
        rig.dispatcher.thaw(agent)
        await settled()

        assert not other.history
        assert syscall.id in one.runs
        one.finish()


@virtual
async def test_a_refused_limit_of_attempts_ends_an_answer_at_its_first_failure() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_attempts=1)) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(text="once ")
        core.break_off(LOST)
        await settled()

        assert isinstance(caller.error, AnswerLost)


# --- it starts again ------------------------------------------------------------------------------


@virtual
async def test_an_answer_that_nobody_has_seen_starts_again_and_the_lost_part_is_charged() -> None:
    core = PuppetCore()
    price = Price(input_per_million=1e6, output_per_million=2e6)
    async with rigged(core, price=price) as rig:
        _, caller = rig.submit(agent := rig.agent(budget=Budget(tokens=1_000)), "three words here")
        caller.wants_deltas = False
        core.progress(num_tokens=40, text="x")
        core.fail(LOST)
        await asyncio.sleep(1)
        (run,) = core.runs.values()
        core.progress(num_tokens=5, text="y")
        core.finish()
        await settled()

        assert run.snapshot is None
        assert caller.text == "done"
        assert agent.accounting.usage == Usage(3 + 3, 40 + 5)
        assert agent.budget.spent.tokens == 3 + 40 + 3 + 5
        assert agent.budget.spent.calls == 1
        assert agent.accounting.money == price.of(6, 45)
        (fact,) = facts(rig, EventKind.RETRIED)
        assert (fact["tokens"], fact["lost_tokens"]) == (0, 40)


@virtual
async def test_a_budget_that_the_lost_part_used_up_ends_the_call() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=50))
        _, caller = rig.submit(agent)
        caller.wants_deltas = False
        core.progress(num_tokens=45, text="x")
        core.fail(LOST)
        await asyncio.sleep(1)
        while core.runs:
            core.progress(num_tokens=1, text="x")
            await settled()

        assert caller.outcome is not None
        assert agent.budget.spent.tokens <= 50
        agent.budget.check()


@virtual
async def test_a_limit_counts_the_tokens_of_the_second_start_alone() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(), max_tokens=5)
        caller.wants_deltas = False
        core.progress(num_tokens=4, text="lost")
        core.fail(LOST)
        await asyncio.sleep(1)
        core.progress(num_tokens=4, text="a b c d ")
        await settled()
        assert caller.outcome is None
        core.progress(num_tokens=2, text="e f")
        await settled()

        assert caller.completion is not None
        assert "lost" not in caller.completion.text


@virtual
async def test_a_resumed_run_that_is_lost_starts_again_where_it_was_resumed() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, caller = rig.submit(agent)
        core.progress(num_tokens=2, text="once upon ")
        core.break_off(LOST)
        await asyncio.sleep(1)
        caller.wants_deltas = False
        core.progress(num_tokens=7, text="lost")
        core.fail(LOST)
        await asyncio.sleep(1)
        (run,) = core.runs.values()
        assert syscall.num_tokens == 2
        core.finish(text="once upon a time")
        await settled()

        assert run.snapshot is not None
        assert run.snapshot.output_ids == (0, 1)
        assert agent.accounting.usage == Usage(1, 7 + 2)


@virtual
async def test_a_start_that_the_next_core_refuses_begins_from_the_prompt() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    async with rigged(one, two) as rig:
        _, caller = rig.submit(rig.agent())
        caller.wants_deltas = False
        first, second = (one, two) if one.runs else (two, one)
        first.progress(num_tokens=2, text="once upon ")
        first.break_off(LOST)
        await settled()
        second.fail(SnapshotError("of another model"))
        await asyncio.sleep(1)
        (run,) = (*one.runs.values(), *two.runs.values())

        assert run.snapshot is None
        (one if one.runs else two).finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_what_may_have_had_an_effect_is_not_started_again_even_if_nobody_saw_it() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        caller.wants_deltas = False
        core.progress(num_tokens=2, text="once upon ")
        core.fail(BROKEN)
        await asyncio.sleep(5)

        assert caller.error is BROKEN


# --- it is lost -----------------------------------------------------------------------------------


@virtual
async def test_an_answer_whose_core_stays_down_is_lost_after_a_time() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(core_wait_s=10)) as rig:
        core.refuses_to_start = LOST
        _, caller = rig.submit(rig.agent())
        _, unseen = rig.submit(rig.agent("b"))
        core.progress(num_tokens=2, text="once upon ")
        core.break_off(LOST)
        core.die(LOST)
        await asyncio.sleep(11)

        assert isinstance(caller.error, AnswerLost)
        assert isinstance(caller.error.__cause__, CoreUnavailable)
        assert isinstance(unseen.error, CoreUnavailable)


@virtual
async def test_a_call_of_a_providers_own_client_gets_its_own_error() -> None:
    core = PuppetCore()
    core.capabilities = Capabilities(context_window=1_000, external=True)
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(num_tokens=0, text="begin")
        core.fail(LOST)
        await settled()

        assert caller.error is LOST
