"""Calls are tried again, and outlive the core that they ran on."""

from __future__ import annotations

import asyncio

import pytest

from aios_core import (
    AnswerLost,
    CoreUnavailable,
    EventKind,
    RateLimited,
    SyscallCancelled,
)
from aios_core.core import CoreDown
from aios_core.scheduler import RoundRobin
from aios_core.scheduler.overload import QueueLimits
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore, settled, virtual

from .rig import BROKEN, LOST, Image, rigged

# --- retries --------------------------------------------------------------------------------------


@virtual
async def test_a_failure_without_effect_is_tried_again_after_a_growing_pause() -> None:
    core = PuppetCore()
    began = []
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        for _ in range(3):
            began.append(rig.clock.now())
            core.fail(LOST)
            await settled()
            await asyncio.sleep(0.25 if len(began) == 1 else 0.5 if len(began) == 2 else 1.0)
        core.finish()
        await settled()

        assert caller.text == "done"
        assert began == pytest.approx([0.0, 0.25, 0.75])
        assert len(core.history) == 4


@virtual
async def test_the_last_attempt_is_the_last() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_attempts=3)) as rig:
        _, caller = rig.submit(rig.agent())
        for _ in range(3):
            core.fail(LOST)
            await asyncio.sleep(5)

        assert caller.error is LOST
        assert len(core.history) == 3


@virtual
async def test_what_may_have_had_an_effect_is_not_tried_again() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.fail(BROKEN)
        await asyncio.sleep(5)

        assert caller.error is BROKEN
        assert len(core.history) == 1


@virtual
async def test_a_call_whose_answer_has_begun_is_not_tried_again() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        _, caller = rig.submit(agent)
        core.progress(text="once upon", num_tokens=2)
        core.fail(LOST)
        await asyncio.sleep(5)

        assert isinstance(caller.error, AnswerLost)
        assert caller.error.num_tokens == 2
        assert caller.error.__cause__ is LOST
        assert str(caller.error) == (
            "core 'puppet': failed in the middle of an answer (tokens so far: 2), and no core can "
            "continue it: lost the connection; repeat the call for a new answer"
        )
        assert len(core.history) == 1
        assert agent.accounting.usage.output_tokens == 2
        assert caller.deltas == ["once upon"]


@virtual
async def test_a_call_whose_text_was_seen_is_not_tried_again_even_if_nobody_counted() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(num_tokens=0, text="once upon")
        core.fail(LOST)
        await asyncio.sleep(5)

        assert isinstance(caller.error, AnswerLost)
        assert len(core.history) == 1


@virtual
async def test_a_call_may_be_cancelled_between_two_attempts() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())
        core.fail(LOST)
        await settled()
        rig.dispatcher.cancel(syscall.id)
        await asyncio.sleep(5)

        assert isinstance(caller.error, SyscallCancelled)
        assert len(core.history) == 1


@virtual
async def test_another_core_of_the_model_takes_over_at_once() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    async with rigged(one, two) as rig:
        _, caller = rig.submit(rig.agent())
        first, second = (one, two) if one.runs else (two, one)
        first.pause(60)
        first.fail(RateLimited("busy", 60))
        await settled()
        second.finish(text="from the other")
        await settled()

        assert caller.text == "from the other"


@virtual
async def test_a_rate_limit_pauses_the_whole_core_and_wakes_by_itself() -> None:
    core = PuppetCore(slots=4)
    async with rigged(core) as rig:
        agent = rig.agent()
        _, first = rig.submit(agent, "first")
        core.pause(7)
        core.fail(RateLimited("busy", 7))
        await settled()
        _, second = rig.submit(agent, "second")
        await asyncio.sleep(6.9)
        assert not core.runs, "nobody is sent there meanwhile"
        await asyncio.sleep(0.2)
        assert core.prompts == ["first", "second"]
        core.finish()
        core.finish()
        await settled()

        assert first.text == second.text == "done"


@virtual
async def test_a_rate_limit_of_a_core_that_keeps_no_pause_is_obeyed_all_the_same() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.fail(RateLimited("busy", 3.0))
        await asyncio.sleep(2.9)
        assert len(core.history) == 1
        await asyncio.sleep(0.2)
        core.finish()
        await settled()

        assert caller.text == "done"


# --- cores die and come back ----------------------------------------------------------------------


@virtual
async def test_calls_of_a_dead_core_go_to_another() -> None:
    one, two = PuppetCore("one"), PuppetCore("two", slots=4)
    async with rigged(one, two) as rig:
        agent = rig.agent()
        while not one.runs:
            rig.submit(agent)
        one.die(LOST)
        await settled()
        while two.runs:
            two.finish()
            await settled()

        assert all(caller.text == "done" for caller in rig.callers)


@virtual
async def test_a_call_suspended_on_a_dead_core_goes_on_elsewhere_from_its_tokens() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    image = Image()
    one.make_image = lambda: image
    async with rigged(one, two, policy=RoundRobin(quantum=2)) as rig:
        agent = rig.agent()
        two.pause(30)
        syscall, caller = rig.submit(agent, "first")
        rig.submit(agent, "second")
        one.progress(num_tokens=2)
        await settled()
        assert syscall.state is SyscallState.SUSPENDED
        one.die(LOST)
        await asyncio.sleep(31)

        resumed = next(r for r in two.history if r.id == syscall.id)
        assert resumed.snapshot is not None
        assert (resumed.snapshot.output_ids, resumed.snapshot.kv) == ((0, 1), None)
        assert image.num_releases == 1
        two.finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_a_dead_core_is_started_again_and_serves_who_waited() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.die(LOST)
        await asyncio.sleep(2)
        core.finish()
        await settled()

        assert caller.text == "done"
        assert core.num_starts == 2
        kinds = [event.kind for event in rig.journal.events()]
        assert kinds.count(EventKind.CORE_DOWN) == 1
        assert kinds.count(EventKind.CORE_UP) == 2


@virtual
async def test_a_core_that_reports_its_death_twice_is_revived_once() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        core.die(LOST)
        core.tell(CoreDown(LOST))
        await asyncio.sleep(5)

        assert core.num_starts == 2
        assert rig.pool.is_up(core.name)


@pytest.mark.parametrize("refusal", [LOST, OSError("no route to host")], ids=repr)
@virtual
async def test_reviving_goes_on_whatever_the_core_raises(refusal: Exception) -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        core.refuses_to_start = refusal
        core.die(LOST)
        await asyncio.sleep(5)
        core.refuses_to_start = None
        await asyncio.sleep(30)

        assert rig.pool.is_up(core.name)


@virtual
async def test_calls_whose_cores_stay_down_are_refused_after_a_time() -> None:
    core, other = PuppetCore(), PuppetCore("other", models=["else"])
    async with rigged(core, other, limits=QueueLimits(core_wait_s=10)) as rig:
        agent = rig.agent()
        core.refuses_to_start = LOST
        _, caller = rig.submit(agent)
        core.die(LOST)
        _, unconcerned = rig.submit(agent, model="else")
        await asyncio.sleep(9.9)
        assert caller.outcome is None
        await asyncio.sleep(0.2)

        assert isinstance(caller.error, CoreUnavailable)
        assert caller.error.retry_after_s >= 0
        assert unconcerned.outcome is None


@virtual
async def test_a_call_to_a_core_that_is_long_dead_is_refused_too() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(core_wait_s=10)) as rig:
        core.refuses_to_start = LOST
        core.die(LOST)
        await asyncio.sleep(100)
        _, caller = rig.submit(rig.agent())
        await asyncio.sleep(10.1)

        assert isinstance(caller.error, CoreUnavailable)


@virtual
async def test_a_model_with_a_fallback_is_served_by_it() -> None:
    core, spare = PuppetCore(), PuppetCore("spare", models=["spare"])
    async with rigged(core, spare, fallbacks={"puppet": "spare"}) as rig:
        core.refuses_to_start = LOST
        core.die(LOST)
        await settled()
        _, caller = rig.submit(rig.agent())
        spare.finish(text="from the spare")
        await settled()

        assert caller.text == "from the spare"


@virtual
async def test_calls_that_wait_for_a_dead_core_turn_to_its_stand_in() -> None:
    core, spare = PuppetCore(), PuppetCore("spare", models=["spare"])
    async with rigged(core, spare, fallbacks={"puppet": "spare"}) as rig:
        core.refuses_to_start = LOST
        agent = rig.agent()
        _, running = rig.submit(agent)
        _, waiting = rig.submit(agent)
        core.die(LOST)
        await settled()
        spare.finish(text="from the spare")
        await settled()
        spare.finish(text="from the spare")
        await settled()

        assert running.text == waiting.text == "from the spare"
        assert agent.budget.spent.calls == 2


@virtual
async def test_a_core_that_comes_back_has_no_contexts() -> None:
    core = PuppetCore(kv_capacity=1_000)
    async with rigged(core) as rig:
        agent = rig.agent()
        _, caller = rig.submit(agent)
        core.finish()
        await settled()
        admission = rig.dispatcher.scheduler.admission
        was_active = admission.is_active(core, agent.pid)

        core.sink([CoreDown(BROKEN)])
        await asyncio.sleep(5)

        assert caller.text == "done"
        assert (was_active, admission.is_active(core, agent.pid)) == (True, False)
        _, again = rig.submit(agent)
        core.finish()
        await settled()
        assert again.text == "done"
