"""Cancellation, deadlines and wall time end a call at every stage."""

from __future__ import annotations

import asyncio

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    DeadlineExceeded,
    SyscallCancelled,
)
from aios_core.messages import Usage
from aios_core.scheduler import RoundRobin
from aios_core.syscalls import SyscallState
from tests.puppet import PuppetCore, settled, virtual

from .rig import Image, rigged

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
