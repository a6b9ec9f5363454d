"""Agents of a running kernel: exit, cancellation, freezing and thawing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aios_core import (
    Budget,
    EventKind,
    Kernel,
    ProcessState,
    SyscallCancelled,
)
from aios_core.cores import ScriptedCore
from tests.puppet import PATIENCE, PuppetCore, asks, booted, error_of, settled, virtual

from .rig import echo, in_thread, until


@virtual
async def test_an_agents_end_cancels_its_calls_and_those_of_its_children() -> None:
    core = PuppetCore(slots=1)
    async with booted(core) as kernel:
        parent = kernel.spawn("parent", budget=Budget(tokens=500))
        child = parent.spawn("child")
        stranger = kernel.spawn("stranger")
        calls = [asks(parent, "running", max_tokens=5), asks(child, "waiting", max_tokens=5)]
        other = asks(stranger, "other")
        await settled()

        parent.exit()

        assert [type(await error_of(call)) for call in calls] == [SyscallCancelled] * 2
        assert core.prompts == ["other"]
        assert (parent.state, child.state) == (ProcessState.EXITED, ProcessState.EXITED)
        assert len(kernel.processes) == 1
        assert parent._process.budget.reserved.tokens == 0
        core.finish()
        await other


@virtual
async def test_an_agent_that_raises_in_its_block_is_ended_and_others_go_on() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with kernel.spawn("unlucky") as agent:
                lost = asks(agent)
                await settled()
                _ = 1 / 0
        other = asks(kernel.spawn("other"))
        await settled()
        core.finish()

        assert isinstance(await error_of(lost), SyscallCancelled)
        assert (await other).text == "done"


@virtual
async def test_an_agent_that_exited_makes_no_calls() -> None:
    async with booted(echo()) as kernel:
        agent = kernel.spawn("a")
        agent.exit()
        agent.exit()

        with pytest.raises(SyscallCancelled, match="exited"):
            await agent.llm.agenerate("hi")


@virtual
async def test_cancelling_an_await_cancels_the_call() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(kernel.spawn("a"))
        await settled()
        call.cancel()
        await settled()

        assert not core.runs


def test_cancelling_an_await_on_another_loop_cancels_the_call(
    boot: Callable[..., Kernel],
) -> None:
    core = PuppetCore()
    agent = boot(core).spawn("a")

    async def give_up() -> None:
        call = asks(agent)
        await asyncio.to_thread(until, lambda: core.runs)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(give_up())

    until(lambda: not core.runs)


@virtual
async def test_freezing_parks_an_agent_and_thawing_lets_it_go_on() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent)
        await settled()

        await kernel.afreeze(agent.pid)
        assert (agent.state, core.prompts) == (ProcessState.FROZEN, [])
        agent.thaw()
        core.finish()

        assert (await call).text == "done"
        kinds = [e.kind for e in kernel.journal.events(pid=agent.pid)]  # type: ignore[attr-defined]
        assert EventKind.AGENT_FROZEN in kinds
        assert EventKind.AGENT_THAWED in kinds


@virtual
async def test_a_frozen_agent_may_exit() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent)
        await settled()
        await kernel.afreeze(agent.pid)

        agent.exit()

        assert isinstance(await error_of(call), SyscallCancelled)


def test_an_agent_is_frozen_from_a_plain_thread(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("a b c d", token_s=0.002, preemptible=True)).spawn("a")
    call = in_thread(lambda: agent.llm.generate("hi").text)
    until(lambda: agent._process.live_calls)

    agent.freeze()
    assert not call.done()
    agent.thaw()

    assert call.result(PATIENCE) == "a b c d"
