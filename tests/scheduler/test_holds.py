"""A held call is served once no reason to hold it is left, and a deadline names the reason."""

from __future__ import annotations

import asyncio

import pytest

from aios_core import (
    CoreError,
)
from aios_core.core import CoreDown
from aios_core.scheduler.waiting_calls import Hold
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore, settled, virtual

from .rig import rigged


@virtual
async def test_thawing_does_not_cut_a_back_off_short() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent)
        core.fail(CoreError("puppet", "lost", is_retryable=True))
        await settled()
        await rig.dispatcher.freeze(agent)
        rig.dispatcher.thaw(agent)
        await settled()
        assert not core.runs, "it still backs off"

        await asyncio.sleep(0.25)
        assert len(core.runs) == 1
        core.finish()


@virtual
async def test_a_back_off_that_ends_does_not_thaw() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, _ = rig.submit(agent)
        core.fail(CoreError("puppet", "lost", is_retryable=True))
        await settled()
        await rig.dispatcher.freeze(agent)
        await asyncio.sleep(10)
        assert not core.runs
        assert syscall.state is SyscallState.READY

        rig.dispatcher.thaw(agent)
        core.finish()


@pytest.mark.parametrize("first", list(Hold), ids=lambda hold: hold.name)
@pytest.mark.parametrize("second", list(Hold), ids=lambda hold: hold.name)
@virtual
async def test_a_call_is_served_once_no_reason_to_hold_it_is_left(
    first: Hold, second: Hold
) -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        scheduler = rig.dispatcher.scheduler
        rig.submit(rig.agent())
        rig.submit(rig.agent(), "held")
        (ticket,) = scheduler.waiting()
        scheduler.hold(ticket, first)
        scheduler.hold(ticket, second)
        core.finish()
        await settled()
        assert not core.runs

        scheduler.release(ticket, first)
        rig.dispatcher.dispatch()
        assert bool(core.runs) is (first is second)

        scheduler.release(ticket, second)
        rig.dispatcher.dispatch()
        assert core.prompts == ["held"]
        core.finish()


@pytest.mark.parametrize("hold", list(Hold), ids=lambda hold: hold.name)
@virtual
async def test_a_deadline_says_why_a_call_was_held_back(hold: Hold) -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        rig.submit(rig.agent())
        _, caller = rig.submit(rig.agent(), timeout_s=1.0)
        (ticket,) = rig.dispatcher.scheduler.waiting()
        rig.dispatcher.scheduler.hold(ticket, hold)
        await asyncio.sleep(2)

        assert f"the call was ready and held back because {hold}" in str(caller.error)
        core.finish()


@virtual
async def test_a_deadline_says_that_a_core_was_down() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        core.refuses_to_start = CoreError("puppet", "no such device")
        core.tell(CoreDown(CoreError("puppet", "power cut")))
        await settled()
        _, caller = rig.submit(rig.agent(), timeout_s=1.0)
        await asyncio.sleep(2)

        assert "waiting for core 'puppet', which is down" in str(caller.error)
        core.refuses_to_start = None
        await asyncio.sleep(60)
