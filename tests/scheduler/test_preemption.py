"""Preempted and frozen calls continue from their snapshots."""

from __future__ import annotations

import asyncio

from aios_core.process import ProcessState
from aios_core.scheduler import RoundRobin
from tests.puppet import PuppetCore, settled, virtual

from .rig import LOST, Image, rigged


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
