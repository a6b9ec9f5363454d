"""The dispatcher answers every call exactly once, bounds its queues and keeps to budgets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    CoreError,
    EventKind,
    InvalidRequest,
    KernelClosed,
    KernelError,
    KernelEvent,
    NoSuchObject,
    Overloaded,
    Price,
    SyscallCancelled,
)
from aios_core.core import Failed, Finished, Preempted, Progress, Stopped
from aios_core.messages import Delta, Usage
from aios_core.scheduler import Auto, RoundRobin
from aios_core.scheduler.overload import QueueLimits
from aios_core.snapshot import Snapshot
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore, settled, virtual

from .rig import BROKEN, LOST, rigged

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
