"""Refusals name a retry time that is about right; an endless rate limit is not retried forever."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aios_core import CoreError, KernelConfig, Overloaded, RateLimited
from aios_core.config import SchedulerConfig
from aios_core.scheduler.overload import QueueLimits
from tests.puppet import PuppetCore, asks, booted, error_of, settled, virtual

from .rig import Rig, rigged

BUSY = RateLimited("busy", 1.0)


class Clockwork(PuppetCore):
    """Finishes each run after `run_s` seconds."""

    run_s = 0.5

    def run(self, run: object) -> None:
        super().run(run)  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(self.run_s, self._end, run.id)  # type: ignore[attr-defined]

    def _end(self, run_id: int) -> None:
        if run_id in self.runs:
            self.finish(run_id)


class Refusing(PuppetCore):
    """Refuses every run for the rate; the first after a pause of its own, if it keeps one."""

    def __init__(self, pause_s: float, *, keeps: bool) -> None:
        super().__init__(slots=4)
        self.pause_s, self.keeps = pause_s, keeps

    def run(self, run: object) -> None:
        super().run(run)  # type: ignore[arg-type]
        if self.keeps:
            self.pause(self.pause_s)
        self.fail(RateLimited("busy", self.pause_s), run.id)  # type: ignore[attr-defined]


async def drained(rig: Rig) -> float:
    """Seconds until every call has its answer."""
    began = rig.clock.now()
    while rig.dispatcher.num_in_flight:  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    return rig.clock.now() - began


# --- when to come back ----------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "run_s"), [(1, 0.5), (4, 2.0), (2, 30.0)])
@virtual
async def test_a_full_queue_tells_about_the_time_that_it_takes(slots: int, run_s: float) -> None:
    core = Clockwork(slots=slots)
    core.run_s = run_s
    async with rigged(core, limits=QueueLimits(max_waiting=8)) as rig:
        for _ in range(3):
            rig.submit(rig.agent())
            await drained(rig)
        for n in range(8 + slots):
            rig.submit(rig.agent(f"a{n}"))
        await asyncio.sleep(run_s / 4)
        with pytest.raises(Overloaded, match="the kernel's queue") as refused:
            rig.submit(rig.agent("late"))

        assert refused.value.retry_after_s == pytest.approx(await drained(rig), rel=0.3)


@virtual
async def test_a_full_queue_of_one_agent_tells_about_the_time_that_this_agent_takes() -> None:
    core = Clockwork(slots=4)
    async with rigged(core, limits=QueueLimits(max_waiting_per_agent=5)) as rig:
        rig.submit(rig.agent())
        await drained(rig)
        greedy = rig.agent("greedy")
        rig.submit(greedy)
        for n in range(3):
            rig.submit(rig.agent(f"other {n}"))
        for _ in range(4):
            rig.submit(greedy)
        with pytest.raises(Overloaded, match="the queue of agent 'greedy'") as refused:
            rig.submit(greedy)

        # It has one of four slots: alone on it, its five calls would take 2.5 s.
        assert 0.5 <= refused.value.retry_after_s <= 2.5
        await drained(rig)


@virtual
async def test_an_agent_that_has_no_slot_is_told_of_those_before_it() -> None:
    core = Clockwork()
    async with rigged(core, limits=QueueLimits(max_waiting_per_agent=2)) as rig:
        rig.submit(rig.agent())
        await drained(rig)
        for n in range(6):
            rig.submit(rig.agent(f"a{n}"))
        last = rig.agent("last")
        rig.submit(last)
        rig.submit(last)
        with pytest.raises(Overloaded, match="'last'") as refused:
            rig.submit(last)

        assert refused.value.retry_after_s == pytest.approx(await drained(rig), rel=0.2)


# --- rate limits end ------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [True, False], ids=["core pauses", "call pauses"])
@virtual
async def test_a_rate_limit_is_tried_as_often_as_any_failure_then_reaches_the_caller(
    keeps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    core = Refusing(1.0, keeps=keeps)
    async with rigged(core, limits=QueueLimits(max_attempts=3)) as rig:
        with caplog.at_level(logging.WARNING):
            _, caller = rig.submit(rig.agent())
            await asyncio.sleep(60)

        assert isinstance(caller.error, RateLimited)
        assert len(core.history) == 3
        assert "is not retried (3 runs, max_attempts 3)" in caplog.text


@pytest.mark.parametrize("pause_s", [0.0, 0.2, 7.0, 29.0])
@virtual
async def test_a_rate_limit_is_not_waited_for_longer_than_configured(pause_s: float) -> None:
    core = Refusing(pause_s, keeps=True)
    async with rigged(core, limits=QueueLimits(max_attempts=1_000, max_retry_s=30)) as rig:
        began = rig.clock.now()
        _, caller = rig.submit(rig.agent())
        while caller.outcome is None:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)

        assert isinstance(caller.error, RateLimited)
        assert rig.clock.now() - began <= 30.2


@virtual
async def test_a_pause_beyond_the_longest_retry_time_reaches_the_caller_at_once() -> None:
    core = PuppetCore()
    async with rigged(core, limits=QueueLimits(max_retry_s=30)) as rig:
        _, caller = rig.submit(rig.agent())
        core.fail(RateLimited("come back tomorrow", 31))
        await settled()

        assert isinstance(caller.error, RateLimited)
        assert caller.error.retry_after_s == 31


@virtual
async def test_a_call_that_others_outran_is_tried_while_the_core_serves() -> None:
    core = PuppetCore(slots=2)
    async with rigged(core, limits=QueueLimits(max_attempts=2)) as rig:
        _, unlucky = rig.submit(rig.agent("unlucky"), "unlucky")
        for _ in range(5):
            rig.submit(rig.agent("lucky"), "lucky")
            await asyncio.sleep(0.1)
            core.finish(core.id_of("lucky"))
            await settled()
            core.fail(BUSY, core.id_of("unlucky"))
            await asyncio.sleep(1.1)
        core.finish()
        await settled()

        assert unlucky.text == "done"


@virtual
async def test_other_failures_are_not_retried_for_longer_either() -> None:
    core = PuppetCore()
    limits = QueueLimits(max_attempts=1_000, max_retry_s=5)
    async with rigged(core, limits=limits) as rig:
        _, caller = rig.submit(rig.agent())
        while caller.outcome is None:
            if core.runs:
                core.fail(CoreError("puppet", "lost", is_retryable=True))
            await asyncio.sleep(0.05)

        assert isinstance(caller.error, CoreError)
        assert len(core.history) <= 6, "0.25, 0.5, 1, 2 s ..."


@virtual
async def test_the_longest_retry_time_is_configured() -> None:
    scheduler = SchedulerConfig(max_attempts=2, max_retry_s=0.5)
    core = PuppetCore()
    config = KernelConfig(drain_s=0.0, scheduler=scheduler)
    async with booted(core, config=config) as kernel:
        call = asks(await kernel.aspawn("a"))
        await settled()
        core.fail(RateLimited("busy", 0.6))

        assert isinstance(await error_of(call), RateLimited)
