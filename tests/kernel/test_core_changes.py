"""Cores come and go while the kernel runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios_core import (
    AnswerLost,
    ConfigError,
    CoreUnavailable,
    EventKind,
    Kernel,
    KernelClosed,
    KernelConfig,
    NoSuchObject,
)
from aios_core.core import ReportSink
from aios_core.cores import ScriptedCore
from aios_core.errors import CoreError
from aios_core.scheduler import RoundRobin
from tests.puppet import PuppetCore, asks, booted, error_of, settled, virtual
from tests.scheduler.rig import Image

LOST = CoreError("puppet", "lost the connection", is_retryable=True)


def kinds_of(kernel: Kernel, core: str) -> list[str]:
    events = kernel.journal.events()  # type: ignore[attr-defined]
    return [event.kind for event in events if event.facts.get("core") == core]


def starts(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


# --- draining -------------------------------------------------------------------------------------


@virtual
async def test_a_draining_core_ends_what_it_has_and_gets_nothing_new() -> None:
    one, two = PuppetCore("one"), PuppetCore("two", slots=4)
    async with booted(one, two) as kernel:
        agent = await kernel.aspawn("a")
        two.pause(1)
        first = asks(agent, "first")
        await settled()
        waiting = asks(agent, "second")
        await settled()
        draining = starts(kernel.adrain_core("one"))
        await settled()
        late = asks(agent, "third")
        await asyncio.sleep(2)
        assert one.prompts == ["first"]
        assert two.prompts == ["second", "third"]
        assert not draining.done()
        one.finish()
        two.finish()
        two.finish()

        assert await draining is True
        assert [(await call).text for call in (first, waiting, late)] == ["done"] * 3
        assert EventKind.CORE_DRAINING in kinds_of(kernel, "one")
        assert one.num_closes == 0


@virtual
async def test_a_time_limit_leaves_the_core_draining() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()

        assert await kernel.adrain_core("puppet", timeout_s=3) is False
        core.finish()
        assert await kernel.adrain_core("puppet", timeout_s=3) is True
        assert (await call).text == "done"


@virtual
async def test_calls_that_lost_their_last_core_wait_for_it_to_resume() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = await kernel.aspawn("a")
        running, waiting = asks(agent, "first"), asks(agent, "second")
        await settled()
        draining = starts(kernel.adrain_core("puppet"))
        late = asks(agent, "third")
        await settled()
        core.finish()
        assert await draining is True
        assert not core.runs
        await kernel.aresume_core("puppet")
        await settled()
        for _ in range(2):
            core.finish()
            await settled()

        assert [(await call).text for call in (running, waiting, late)] == ["done"] * 3


@virtual
async def test_calls_without_a_core_are_refused_after_a_time_and_told_why() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = await kernel.aspawn("a")
        await kernel.adrain_core("puppet")
        late = asks(agent)
        error = await error_of(late)

        assert isinstance(error, CoreUnavailable)
        assert "core 'puppet' is draining" in str(error)
        assert kernel.time() == pytest.approx(10.0, abs=0.1)


@virtual
async def test_calls_that_lost_their_last_core_turn_to_a_fallback() -> None:
    core, spare = PuppetCore(), PuppetCore("spare", models=["spare"])
    config = KernelConfig(drain_s=0.0, fallbacks={"puppet": ("spare",)})
    async with booted(core, spare, config=config) as kernel:
        agent = await kernel.aspawn("a")
        running, waiting = asks(agent, "first"), asks(agent, "second")
        await settled()
        draining = starts(kernel.adrain_core("puppet"))
        await settled()
        assert spare.prompts == ["second"]
        spare.finish(text="from the spare")
        core.finish()
        await draining

        assert (await running).text == "done"
        assert (await waiting).text == "from the spare"


@virtual
async def test_running_calls_leave_with_their_tokens_if_they_shall() -> None:
    one, two = PuppetCore("one"), PuppetCore("two", slots=4)
    image = Image()
    one.make_image = lambda: image
    async with booted(one, two) as kernel:
        two.pause(1)
        call = asks(await kernel.aspawn("a"))
        await settled()
        one.progress(num_tokens=2)
        assert await kernel.adrain_core("one", preempt=True) is True
        await asyncio.sleep(1)
        (run,) = two.runs.values()
        two.finish()

        assert run.snapshot is not None
        assert (run.snapshot.output_ids, run.snapshot.kv) == ((0, 1), None)
        assert image.num_releases == 1
        assert (await call).text == "done"


@virtual
async def test_calls_that_no_other_core_can_continue_end_where_they_are() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        core.progress(num_tokens=2)
        draining = starts(kernel.adrain_core("puppet", preempt=True))
        await settled()
        core.finish()

        assert await draining is True
        assert (await call).text == "done"


@virtual
async def test_a_draining_core_ends_what_it_has_suspended_too() -> None:
    core = PuppetCore()
    core.make_image = Image
    async with booted(core, policy=RoundRobin(quantum=2)) as kernel:
        agent = await kernel.aspawn("a")
        first, second = asks(agent, "first"), asks(agent, "second")
        await settled()
        core.progress(num_tokens=2)
        await settled()
        assert core.prompts == ["second"]
        draining = starts(kernel.adrain_core("puppet"))
        await settled()
        core.finish()
        await settled()
        assert core.prompts == ["first"]
        assert not draining.done()
        core.finish()

        assert await draining is True
        assert [(await call).text for call in (first, second)] == ["done"] * 2


@virtual
async def test_a_call_that_is_being_prepared_is_prepared_again_elsewhere() -> None:
    core, spare = PuppetCore(), PuppetCore("spare", models=["spare"])
    core.preparing = asyncio.Event()
    config = KernelConfig(drain_s=0.0, fallbacks={"puppet": ("spare",)})
    async with booted(core, spare, config=config) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        await kernel.adrain_core("puppet")
        await settled()
        spare.finish()
        await settled()

        assert (await call).text == "done"


# --- removing -------------------------------------------------------------------------------------


@virtual
async def test_a_removed_core_is_closed_and_forgotten() -> None:
    one, two = PuppetCore("one", models=["a"]), PuppetCore("two", models=["b"])
    async with booted(one, two) as kernel:
        await kernel.aremove_core("one")

        assert one.num_closes == 1
        assert kernel.pool.models == ("b",)
        assert [core.name for core in kernel.pool] == ["two"]
        assert kinds_of(kernel, "one")[-2:] == [EventKind.CORE_DRAINING, EventKind.CORE_REMOVED]


@virtual
async def test_calls_of_a_removed_core_continue_elsewhere_when_their_time_is_over() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    async with booted(one, two) as kernel:
        two.pause(1)
        call = asks(await kernel.aspawn("a"))
        await settled()
        one.progress(num_tokens=2)
        await kernel.aremove_core("one", timeout_s=5)
        await settled()
        (run,) = two.runs.values()
        two.finish()

        assert run.snapshot is not None
        assert run.snapshot.output_ids == (0, 1)
        assert (await call).text == "done"


@virtual
async def test_calls_that_cannot_be_preempted_start_again_elsewhere_unless_they_were_seen() -> None:
    one = PuppetCore("one", preemptible=False, slots=2)
    two = PuppetCore("two", preemptible=False, slots=2)
    async with booted(one, two) as kernel:
        two.pause(1)
        agent = await kernel.aspawn("a")
        unseen = asks(agent, "unseen")
        stream = agent.llm.astream("seen")
        seen = starts(anext(aiter(stream)))
        await settled()
        for run_id in tuple(one.runs):
            one.progress(run_id, text="once ")
        await seen
        rest = starts(anext(aiter(stream)))
        await kernel.aremove_core("one", timeout_s=1)
        await settled()
        assert two.prompts == ["unseen"]
        two.finish()

        assert (await unseen).text == "done"
        assert isinstance(await error_of(rest), AnswerLost)


@virtual
async def test_calls_of_a_core_that_ignores_its_end_go_elsewhere() -> None:
    one, two = PuppetCore("one", obeys=False), PuppetCore("two")

    async def close_silently() -> None:
        one.num_closes += 1

    one.close = close_silently  # type: ignore[method-assign]
    async with booted(one, two) as kernel:
        two.pause(1)
        call = asks(await kernel.aspawn("a"))
        await settled()
        await kernel.aremove_core("one", timeout_s=0)
        await settled()
        two.finish()

        assert (await call).text == "done"


@virtual
async def test_a_core_that_is_down_can_be_removed_and_is_not_started_again() -> None:
    one, two = PuppetCore("one", models=["a"]), PuppetCore("two", models=["b"])
    async with booted(one, two) as kernel:
        one.refuses_to_start = LOST
        one.die(LOST)
        await settled()
        await kernel.aremove_core("one")
        await asyncio.sleep(60)

        assert one.num_starts == 1
        assert not kernel.pool.outages


@virtual
async def test_a_core_that_is_being_started_again_can_be_removed() -> None:
    class Slow(PuppetCore):
        async def start(self, sink: ReportSink) -> None:
            await super().start(sink)
            if self.num_starts > 1:
                await asyncio.sleep(30)

    one, two = Slow("one"), PuppetCore("two", models=["b"])
    async with booted(one, two) as kernel:
        one.die(LOST)
        await asyncio.sleep(2)
        assert one.num_starts == 2
        await kernel.aremove_core("one")
        await asyncio.sleep(60)

        assert (one.num_starts, one.num_closes) == (2, 1)
        assert EventKind.CORE_UP not in kinds_of(kernel, "one")[1:]


@virtual
async def test_the_last_core_can_be_replaced_while_its_calls_wait() -> None:
    old, new = PuppetCore(), PuppetCore()
    async with booted(old) as kernel:
        agent = await kernel.aspawn("a")
        await kernel.aremove_core("puppet")
        assert kernel.pool.models == ()
        call = asks(agent)
        await asyncio.sleep(3)
        await kernel.aadd_core(new)
        await settled()
        new.finish()

        assert (await call).text == "done"
        assert kernel.pool["puppet"] is new


@virtual
async def test_a_model_that_is_gone_for_good_is_refused_with_the_reason() -> None:
    one, two = PuppetCore("one", models=["a"]), PuppetCore("two", models=["b"])
    async with booted(one, two) as kernel:
        agent = await kernel.aspawn("x")
        await kernel.aremove_core("one")
        error = await error_of(asks(agent, model="a"))

        assert isinstance(error, CoreUnavailable)
        assert "core 'one' was removed" in str(error)
        with pytest.raises(NoSuchObject):
            await asks(agent, model="c")


@virtual
async def test_unknown_cores_are_refused_by_name() -> None:
    async with booted(PuppetCore()) as kernel:
        for change in (kernel.adrain_core, kernel.aremove_core, kernel.aresume_core):
            with pytest.raises(NoSuchObject, match=r"no core 'pupet'.*puppet"):
                await change("pupet")


@virtual
async def test_a_core_is_removed_once_by_two_who_ask_at_the_same_time() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        removals = [starts(kernel.aremove_core("puppet")) for _ in range(2)]
        await settled()
        core.finish()
        await asyncio.gather(*removals)

        assert core.num_closes == 1
        assert (await call).text == "done"
        with pytest.raises(NoSuchObject):
            await kernel.aremove_core("puppet")


@virtual
async def test_who_stops_waiting_for_a_removal_leaves_the_core_draining() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        removal = starts(kernel.aremove_core("puppet"))
        await settled()
        removal.cancel()
        await settled()
        assert core.num_closes == 0
        core.finish()
        await kernel.aremove_core("puppet")

        assert (await call).text == "done"
        assert core.num_closes == 1


@virtual
async def test_the_end_of_the_kernel_ends_the_wait_for_a_core() -> None:
    core = PuppetCore()
    async with Kernel(KernelConfig(drain_s=0.0), cores=[core]) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        removal, drain = starts(kernel.aremove_core("puppet")), starts(kernel.adrain_core("puppet"))
        await settled()
        await kernel.aclose()

        assert isinstance(await error_of(removal), KernelClosed)
        assert isinstance(await error_of(drain), KernelClosed)
        assert isinstance(await error_of(call), KernelClosed)


@virtual
async def test_a_late_death_of_a_removed_core_does_not_touch_its_successor() -> None:
    old, new = PuppetCore(), PuppetCore()
    async with booted(old) as kernel:
        await kernel.aremove_core("puppet")
        await kernel.aadd_core(new)
        old.die(LOST)
        await settled()

        assert kernel.pool.is_up("puppet")


# --- adding ---------------------------------------------------------------------------------------


@virtual
async def test_calls_that_wait_use_a_core_that_was_added() -> None:
    one, two = PuppetCore("one"), PuppetCore("two")
    async with booted(one) as kernel:
        agent = await kernel.aspawn("a")
        first, second = asks(agent, "first"), asks(agent, "second")
        await settled()
        await kernel.aadd_core(two)
        await settled()
        assert two.prompts == ["second"]
        one.finish()
        two.finish()

        assert [(await call).text for call in (first, second)] == ["done"] * 2


@virtual
async def test_a_name_in_use_is_refused_even_while_its_core_drains() -> None:
    async with booted(PuppetCore()) as kernel:
        await kernel.adrain_core("puppet")
        with pytest.raises(ConfigError):
            await kernel.aadd_core(PuppetCore())


def test_the_blocking_forms_do_the_same() -> None:
    with Kernel(KernelConfig(drain_s=0.0), cores=[ScriptedCore("ok", name="one")]) as kernel:
        kernel.add_core(ScriptedCore("ok", name="two"))
        assert kernel.drain_core("one", timeout_s=1) is True
        kernel.resume_core("one")
        kernel.remove_core("two")

        assert [core.name for core in kernel.pool] == ["one"]
        assert kernel.spawn("a").llm.generate("hi").text == "ok"


@virtual
async def test_calls_of_a_core_with_kv_memory_leave_no_trace_in_its_accounts() -> None:
    class Closing(PuppetCore):
        """A core that can state nothing about itself once it is closed."""

        def __getattribute__(self, name: str) -> Any:
            if name == "capabilities" and self.num_closes:
                raise LOST
            return super().__getattribute__(name)

    one, two = Closing("one", kv_capacity=1_000), PuppetCore("two", kv_capacity=1_000)
    one.make_image = Image
    async with booted(one, two, policy=RoundRobin(quantum=2)) as kernel:
        two.pause(1)
        agent = await kernel.aspawn("a")
        calls = [asks(agent, "first"), asks(agent, "second")]
        await settled()
        one.progress(num_tokens=2)
        await settled()
        await kernel.aremove_core("one", timeout_s=0)
        await asyncio.sleep(1)
        for _ in range(2):
            two.finish()
            await settled()

        assert [(await call).text for call in calls] == ["done"] * 2
