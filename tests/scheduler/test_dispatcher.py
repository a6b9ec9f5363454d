"""The dispatcher's promise: every call is answered exactly once, and then holds nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    CoreError,
    CoreUnavailable,
    DeadlineExceeded,
    EventKind,
    InvalidRequest,
    KernelClosed,
    KernelError,
    KernelEvent,
    NoSuchObject,
    Overloaded,
    Price,
    RateLimited,
    SyscallCancelled,
)
from aios_core.core import CoreDown, Failed, Finished, Preempted, Progress, Stopped
from aios_core.messages import Delta, Usage
from aios_core.process import ProcessState
from aios_core.scheduler import Auto, RoundRobin
from aios_core.scheduler.overload import QueueLimits
from aios_core.snapshot import Snapshot, Tier
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore, settled, virtual

from .rig import rigged

LOST = CoreError("puppet", "lost the connection", is_retryable=True)
BROKEN = CoreError("puppet", "broke", is_retryable=False)


class Image:
    """A KV image that knows whether it was freed."""

    tier = Tier.HOST
    num_tokens = 1
    num_bytes = 1

    def __init__(self) -> None:
        self.num_releases = 0

    def to_host(self) -> None: ...
    def to_disk(self, path: object) -> None: ...
    def copy_to(self, path: object) -> None: ...

    def release(self) -> None:
        self.num_releases += 1


# --- answered exactly once ------------------------------------------------------------------------


@virtual
async def test_an_answer_reaches_its_caller() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent(), "what is it?")
        core.progress(text="it is ")
        core.finish(text="it is this")
        await settled()

        assert (caller.deltas, caller.text) == (["it is "], "it is this")
        assert syscall.state is SyscallState.DONE
        assert syscall.usage == Usage(3, 1)


@virtual
async def test_a_core_that_reports_an_end_twice_is_heard_once() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())
        end = Finished(syscall.id, core.completion(syscall.id, "first"))
        core.tell(end, Failed(syscall.id, BROKEN), end)
        core.tell(Progress(syscall.id, 1, Delta("more")))
        await settled()

        assert caller.text == "first"
        assert caller.deltas == []


@virtual
async def test_reports_of_unknown_runs_are_ignored() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        core.tell(Failed(99, BROKEN), Stopped(99), Progress(99, 1, Delta("x")))
        core.tell(Preempted(99, Snapshot("m")))
        _, caller = rig.submit(rig.agent())
        core.finish()
        await settled()

        assert caller.text == "done"


@virtual
async def test_a_core_does_not_speak_for_the_runs_of_another() -> None:
    core, other = PuppetCore("one"), PuppetCore("other", models=["else"])
    async with rigged(core, other) as rig:
        syscall, caller = rig.submit(rig.agent())
        other.tell(Failed(syscall.id, BROKEN))
        await settled()
        core.finish(text="mine")
        await settled()

        assert caller.text == "mine"


@virtual
async def test_an_answer_after_the_cancellation_is_not_heard_but_paid() -> None:
    core = PuppetCore(obeys=False)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=100))
        syscall, caller = rig.submit(agent, "one two three", max_tokens=10)
        core.progress(num_tokens=4)
        await settled()
        rig.dispatcher.cancel(syscall.id)
        core.finish(text="too late")
        await settled()

        assert isinstance(caller.error, SyscallCancelled)
        assert agent.budget.spent.tokens == 7
        assert agent.accounting.usage == Usage(3, 4)


@virtual
async def test_a_core_that_never_answers_a_cancellation_keeps_its_slot_until_it_closes() -> None:
    core = PuppetCore(obeys=False)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=100))
        syscall, caller = rig.submit(agent, max_tokens=10)
        _, waiting = rig.submit(agent, max_tokens=10)
        rig.dispatcher.cancel(syscall.id)
        await settled()

        assert isinstance(caller.error, SyscallCancelled), "its caller does not wait for the core"
        assert core.asked_to_cancel == [syscall.id]
        assert waiting.outcome is None, "the slot is not free before the core says so"
        assert agent.budget.reserved.tokens == 11, "a call that waits reserves nothing"
    assert agent.budget.reserved.tokens == 0


@virtual
async def test_a_core_that_reports_from_another_thread_is_heard_on_the_loop() -> None:
    core = PuppetCore(slots=20)
    async with rigged(core) as rig:
        callers = [rig.submit(rig.agent(f"a{i}"))[1] for i in range(20)]

        def work() -> None:
            for run_id in tuple(core.runs):
                core.progress(run_id, text="x")
                core.finish(run_id)

        await asyncio.get_running_loop().run_in_executor(None, work)
        await settled()

        assert [caller.text for caller in callers] == ["done"] * 20
        assert [caller.deltas for caller in callers] == [["x"]] * 20
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize("error", [RuntimeError("tokenizer"), InvalidRequest("bad")], ids=repr)
@virtual
async def test_a_failing_preparation_fails_its_caller_and_nobody_else(error: Exception) -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        core.refuses_to_prepare = error
        _, bad = rig.submit(agent)
        core.refuses_to_prepare = None
        _, good = rig.submit(agent)
        core.finish()
        await settled()

        assert isinstance(bad.error, KernelError)
        assert bad.error is error or bad.error.__cause__ is error
        assert good.text == "done"
        assert agent.accounting.num_failed == 1


@virtual
async def test_a_core_that_raises_where_it_must_not_fails_its_caller_and_nobody_else() -> None:
    core = PuppetCore(slots=2)
    async with rigged(core) as rig:
        agent = rig.agent()
        runs = core.run
        core.run = _raise  # type: ignore[method-assign,assignment]
        _, bad = rig.submit(agent)
        core.run = runs  # type: ignore[method-assign]
        _, good = rig.submit(agent)
        core.finish()
        await settled()

        assert isinstance(bad.error, CoreError)
        assert good.text == "done"


def _raise(*_: Any) -> None:
    raise RuntimeError("a core must not raise here")


# --- cancellation, at every stage -----------------------------------------------------------------


@virtual
async def test_a_call_can_be_cancelled_while_it_is_prepared() -> None:
    core = PuppetCore()
    core.preparing = asyncio.Event()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())
        await settled()

        assert rig.dispatcher.cancel(syscall.id)
        core.preparing.set()
        await settled()

        assert isinstance(caller.error, SyscallCancelled)
        assert not core.history, "it never reaches the core"


@virtual
async def test_a_call_can_be_cancelled_before_its_preparation_began() -> None:
    core = PuppetCore()
    core.preparing = asyncio.Event()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())

        rig.dispatcher.cancel(syscall.id)
        await settled()

        assert isinstance(caller.error, SyscallCancelled)


@virtual
async def test_a_call_can_be_cancelled_while_it_waits() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent, "first")
        syscall, caller = rig.submit(agent, "second")

        rig.dispatcher.cancel(syscall.id)
        core.finish()
        await settled()

        assert isinstance(caller.error, SyscallCancelled)
        assert len(core.history) == 1


@virtual
async def test_cancelling_a_running_call_stops_the_core_and_frees_the_slot() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, caller = rig.submit(agent, "first")
        rig.submit(agent, "second")

        rig.dispatcher.cancel(syscall.id)
        await settled()

        assert isinstance(caller.error, SyscallCancelled)
        assert core.prompts == ["second"]
        core.finish()


@virtual
async def test_cancelling_a_suspended_call_frees_its_snapshot_and_books_its_tokens() -> None:
    core, image = PuppetCore(), Image()
    core.make_image = lambda: image
    async with rigged(core, policy=RoundRobin(quantum=4)) as rig:
        agent = rig.agent(budget=Budget(tokens=1_000))
        syscall, caller = rig.submit(agent, "one two three", max_tokens=100)
        rig.submit(agent, "second", max_tokens=100)
        core.progress(num_tokens=4)
        await settled()
        assert syscall.state is SyscallState.SUSPENDED

        rig.dispatcher.cancel(syscall.id)
        core.finish()
        await settled()

        assert isinstance(caller.error, SyscallCancelled)
        assert image.num_releases == 1
        assert agent.budget.spent.tokens == (3 + 4) + (1 + 0)
        assert agent.accounting.usage == Usage(4, 4)


@virtual
async def test_cancelling_an_answered_call_changes_nothing() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())
        core.finish()
        await settled()

        assert not rig.dispatcher.cancel(syscall.id)
        assert caller.text == "done"


@virtual
async def test_a_preemption_that_crosses_a_cancellation_frees_its_image() -> None:
    core, image = PuppetCore(obeys=False), Image()
    async with rigged(core) as rig:
        syscall, _ = rig.submit(rig.agent())
        rig.dispatcher.cancel(syscall.id)
        core.make_image = lambda: image
        core.give_up()
        await settled()

        assert image.num_releases == 1


# --- deadlines and wall time ----------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["being prepared", "ready", "running on core 'puppet'"])
@virtual
async def test_a_deadline_ends_a_call_wherever_it_is(stage: str) -> None:
    core = PuppetCore(slots=2 if "running" in stage else 1)
    async with rigged(core) as rig:
        agent = rig.agent()
        _, first = rig.submit(agent)
        if "prepared" in stage:
            core.preparing = asyncio.Event()
        _, caller = rig.submit(agent, timeout_s=2.0)
        await asyncio.sleep(1.9)
        assert caller.outcome is None
        await asyncio.sleep(0.2)

        assert isinstance(caller.error, DeadlineExceeded)
        assert stage in str(caller.error)
        assert first.outcome is None, "others go on"


@virtual
async def test_an_answered_call_leaves_no_timer() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(budget=Budget(wall_s=5)), timeout_s=2.0)
        core.finish()
        await settled()
        live = [t for t in asyncio.get_running_loop()._scheduled if not t.cancelled()]  # type: ignore[attr-defined]

        assert caller.text == "done"
        assert live == []


@virtual
async def test_calls_end_when_the_wall_time_of_the_family_does() -> None:
    core = PuppetCore(slots=4)
    async with rigged(core) as rig:
        parent = rig.agent("parent", budget=Budget(wall_s=5.0))
        child = rig.agent("child", parent=parent.pid)
        await asyncio.sleep(1)
        _, caller = rig.submit(child)
        _, stranger = rig.submit(rig.agent("stranger"))
        await asyncio.sleep(3.9)
        assert caller.outcome is None
        await asyncio.sleep(0.2)

        assert isinstance(caller.error, BudgetExceeded)
        assert caller.error.resource == "seconds of wall time"
        assert "parent" in caller.error.owner
        assert stranger.outcome is None


@virtual
async def test_a_call_after_the_wall_time_never_reaches_a_core() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(wall_s=5.0))
        await asyncio.sleep(6)
        _, caller = rig.submit(agent)
        await settled()

        assert isinstance(caller.error, BudgetExceeded)
        assert not core.history


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
        _, caller = rig.submit(rig.agent())
        core.progress(text="once upon")
        core.fail(LOST)
        await asyncio.sleep(5)

        assert caller.error is LOST
        assert caller.deltas == ["once upon"]


@virtual
async def test_a_call_whose_text_was_seen_is_not_tried_again_even_if_nobody_counted() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.progress(num_tokens=0, text="once upon")
        core.fail(LOST)
        await asyncio.sleep(5)

        assert caller.error is LOST


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


# --- bounded queues -------------------------------------------------------------------------------


@virtual
async def test_a_full_queue_refuses_with_a_retry_time() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_waiting=2)) as rig:
        agent = rig.agent()
        for _ in range(3):  # one runs, two wait
            rig.submit(agent)
        with pytest.raises(Overloaded) as refused:
            rig.submit(agent)

        assert refused.value.retry_after_s > 0
        core.finish()
        await settled()
        rig.submit(agent)


@virtual
async def test_calls_that_are_being_prepared_count_as_waiting() -> None:
    core = PuppetCore()
    core.preparing = asyncio.Event()
    async with rigged(core, limits=QueueLimits(max_waiting=2)) as rig:
        rig.submit(rig.agent("a"))
        rig.submit(rig.agent("b"))

        with pytest.raises(Overloaded):
            rig.submit(rig.agent("c"))
        await settled()


@virtual
async def test_one_agent_cannot_fill_the_queue_of_all() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_waiting_per_agent=2)) as rig:
        greedy = rig.agent("greedy")
        rig.submit(greedy)
        rig.submit(greedy)

        with pytest.raises(Overloaded, match="greedy"):
            rig.submit(greedy)
        rig.submit(rig.agent("modest"))


@virtual
async def test_an_unknown_model_is_refused_and_named() -> None:
    async with rigged(PuppetCore()) as rig:
        with pytest.raises(NoSuchObject, match=r"no model 'gpt-9'; have \['puppet'\]"):
            rig.submit(rig.agent(), model="gpt-9")


# --- budgets --------------------------------------------------------------------------------------


@virtual
async def test_a_call_that_may_cost_too_much_is_not_started() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=10))
        _, caller = rig.submit(agent, "one two three", max_tokens=8)
        await settled()

        assert isinstance(caller.error, BudgetExceeded)
        assert not core.history
        assert agent.budget.spent.calls == 0


@virtual
async def test_a_call_without_a_limit_gets_what_is_left() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        rig.submit(rig.agent(budget=Budget(tokens=10)), "one two three")

        assert core.history[0].prepared.max_tokens == 7


@virtual
async def test_a_call_without_a_limit_gets_what_the_money_pays_for() -> None:
    core = PuppetCore()
    price = Price(input_per_million=1e6, output_per_million=2e6)  # 1 and 2 a token
    async with rigged(core, price=price) as rig:
        agent = rig.agent(budget=Budget(money=10))
        rig.submit(agent, "one two three four")
        core.progress(num_tokens=2)
        core.finish()
        await settled()

        assert core.history[0].prepared.max_tokens == 3
        assert agent.budget.spent.money == 4 + 2 * 2


@virtual
async def test_a_family_spends_from_one_purse() -> None:
    core = PuppetCore(slots=8)
    async with rigged(core) as rig:
        parent = rig.agent("parent", budget=Budget(tokens=25))
        children = [rig.agent(f"child {i}", parent=parent.pid) for i in range(3)]
        callers = [rig.submit(child, "word", max_tokens=9)[1] for child in children]
        await settled()

        assert len(core.runs) == 2, "the third waits until one of them settles"
        assert parent.budget.reserved.tokens == 20
        core.progress(num_tokens=2)
        core.finish()
        await settled()

        assert len(core.runs) == 2
        assert parent.budget.spent.tokens == 3
        assert parent.budget.reserved.tokens == 20
        assert all(caller.error is None for caller in callers)


@virtual
async def test_a_call_that_never_ran_costs_nothing() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        rig.submit(rig.agent("other"))
        agent = rig.agent(budget=Budget(tokens=100, calls=1))
        syscall, _ = rig.submit(agent, max_tokens=10)
        rig.dispatcher.cancel(syscall.id)

        assert (agent.budget.spent.tokens, agent.budget.spent.calls) == (0, 0)
        assert agent.budget.reserved.tokens == 0


# --- preemption, freeze and thaw ------------------------------------------------------------------


@virtual
async def test_a_preempted_call_goes_on_from_its_snapshot() -> None:
    core = PuppetCore()
    async with rigged(core, policy=RoundRobin(quantum=3)) as rig:
        agent = rig.agent()
        syscall, caller = rig.submit(agent, "long")
        rig.submit(agent, "short")
        core.progress(num_tokens=3)
        await settled()
        assert core.prompts == ["short"]
        core.finish()
        await settled()

        assert core.history[-1].id == syscall.id
        assert core.history[-1].snapshot is not None
        assert core.history[-1].snapshot.output_ids == (0, 1, 2)
        assert syscall.num_attempts == 1, "going on is not trying again"
        core.finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_freezing_takes_a_running_call_off_its_core_and_thawing_brings_it_back() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        _, caller = rig.submit(agent)
        core.progress(num_tokens=5)
        await settled()
        agent.state = ProcessState.FROZEN
        await rig.dispatcher.freeze(agent)
        assert not core.runs
        rig.dispatcher.dispatch()
        assert not core.runs, "a frozen call waits, whatever its turn"

        agent.state = ProcessState.ACTIVE
        rig.dispatcher.thaw(agent)
        core.finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_calls_that_a_frozen_agent_makes_wait_too() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        agent.state = ProcessState.FROZEN
        await rig.dispatcher.freeze(agent)
        _, caller = rig.submit(agent)
        await settled()
        assert not core.runs

        agent.state = ProcessState.ACTIVE
        rig.dispatcher.thaw(agent)
        core.finish()
        await settled()
        assert caller.text == "done"


@virtual
async def test_freezing_waits_for_a_call_that_cannot_be_preempted() -> None:
    core = PuppetCore(preemptible=False)
    async with rigged(core) as rig:
        agent = rig.agent()
        _, caller = rig.submit(agent)
        agent.state = ProcessState.FROZEN
        frozen = rig.dispatcher.freeze(agent)
        await settled()
        assert not frozen.done()

        core.finish()
        await settled()
        assert frozen.done()
        assert caller.text == "done"


@virtual
async def test_freezing_one_agent_does_not_wait_for_another() -> None:
    core = PuppetCore(preemptible=False, slots=2)
    async with rigged(core) as rig:
        stuck, quick = rig.agent("stuck"), rig.agent("quick")
        rig.submit(stuck, "stuck")
        rig.submit(quick, "quick")
        stuck.state = quick.state = ProcessState.FROZEN
        waits, goes = rig.dispatcher.freeze(stuck), rig.dispatcher.freeze(quick)
        core.finish(core.id_of("quick"))
        await settled()

        assert goes.done()
        assert not waits.done()


@virtual
async def test_a_frozen_agent_stays_off_when_its_running_call_fails_and_is_tried_again() -> None:
    core, other = PuppetCore("one", preemptible=False), PuppetCore("two", preemptible=False)
    async with rigged(core, other) as rig:
        agent = rig.agent()
        _, caller = rig.submit(agent)
        agent.state = ProcessState.FROZEN
        frozen = rig.dispatcher.freeze(agent)
        (core if core.runs else other).fail(LOST)
        await asyncio.sleep(5)
        assert frozen.done()
        assert not core.runs
        assert not other.runs

        agent.state = ProcessState.ACTIVE
        rig.dispatcher.thaw(agent)
        assert core.runs or other.runs
        assert caller.outcome is None


@virtual
async def test_thawing_does_not_resume_a_call_whose_image_is_being_moved() -> None:
    core = PuppetCore()
    core.make_image = Image
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, _ = rig.submit(agent)
        agent.state = ProcessState.FROZEN
        await rig.dispatcher.freeze(agent)
        rig.dispatcher.set_moving(syscall.id, True)

        agent.state = ProcessState.ACTIVE
        rig.dispatcher.thaw(agent)
        assert not core.runs
        rig.dispatcher.set_moving(syscall.id, False)
        assert core.runs


@virtual
async def test_a_call_frozen_while_its_image_moves_stays_frozen() -> None:
    core = PuppetCore()
    core.make_image = Image
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, _ = rig.submit(agent)
        agent.state = ProcessState.FROZEN
        await rig.dispatcher.freeze(agent)
        rig.dispatcher.set_moving(syscall.id, True)
        rig.dispatcher.set_moving(syscall.id, False)

        rig.dispatcher.dispatch()
        assert not core.runs


# --- closing --------------------------------------------------------------------------------------


@virtual
async def test_draining_gives_running_and_waiting_calls_their_time() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        _, first = rig.submit(agent)
        _, second = rig.submit(agent)
        draining = asyncio.ensure_future(rig.dispatcher.drain(5))
        await asyncio.sleep(1)
        core.finish()
        await asyncio.sleep(1)
        core.finish()
        await draining

        assert first.text == second.text == "done"
        assert rig.clock.now() < 4, "it does not wait any longer than it must"
        with pytest.raises(KernelClosed):
            rig.submit(agent)


@virtual
async def test_what_does_not_end_in_time_hears_that_the_kernel_closed() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent)
        rig.submit(agent)
        await rig.dispatcher.drain(1)

        assert all(isinstance(caller.error, KernelClosed) for caller in rig.callers)


# --- observers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["call.submitted", "call.dispatched", "call.preempted", "call.retried", "call.cancelled"],
)
@virtual
async def test_an_observer_may_cancel_the_call_that_it_is_told_of(kind: str) -> None:
    core = PuppetCore(slots=1)
    async with rigged(core, policy=RoundRobin(quantum=1)) as rig:
        agent = rig.agent()

        def judge(event: KernelEvent) -> None:
            if event.kind == kind and event.syscall_id == 1:
                rig.dispatcher.cancel(1)

        rig.events.subscribe(judge)
        syscall, caller = rig.submit(agent, "first")
        rig.submit(agent, "second")
        if kind == "call.preempted":
            core.progress(num_tokens=1)
        elif kind == "call.retried":
            core.fail(LOST)
        await settled()
        if kind == "call.cancelled":
            rig.dispatcher.cancel(syscall.id)
        await asyncio.sleep(3)
        rig.check()

        assert isinstance(caller.error, SyscallCancelled)
        assert core.prompts == ["second"], "nothing is left of it on the core"


@virtual
async def test_the_story_of_a_call_can_be_told() -> None:
    core = PuppetCore()
    async with rigged(core, policy=RoundRobin(quantum=1)) as rig:
        agent = rig.agent()
        syscall, _ = rig.submit(agent, "long")
        rig.submit(agent, "short")
        core.progress(num_tokens=1)
        await settled()
        core.finish()
        await settled()
        core.finish()
        await settled()

        kinds = [event.kind.name for event in rig.journal.events(syscall_id=syscall.id)]
        assert kinds == ["SUBMITTED", "DISPATCHED", "PREEMPTED", "DISPATCHED", "DONE"]


@virtual
async def test_a_change_of_policy_is_told() -> None:
    core = PuppetCore()
    async with rigged(core, policy=Auto()) as rig:
        for name in "abc":
            rig.submit(rig.agent(name, group=name))
            await asyncio.sleep(1)

        told = [e.facts for e in rig.journal.events() if e.kind is EventKind.POLICY_CHANGED]
        assert told == [{"policy": "fifo"}, {"policy": "fair"}]
