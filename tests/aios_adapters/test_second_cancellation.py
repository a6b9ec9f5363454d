"""A caller that is cancelled twice leaves the agent, the provider and the slot in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest

from aios_adapters import (
    AgentDirectory,
    AgentSettings,
    Caller,
    apassthrough_call,
    register_provider_model,
)
from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from aios_core.testing import cancel_twice

STEPS = pytest.mark.parametrize("num_steps", range(8))


class Provider:
    """A provider that takes some steps of the loop to close what it has opened."""

    def __init__(self) -> None:
        self.is_called = asyncio.Event()
        self.num_open = 0

    async def answer(self) -> None:
        self.num_open = 5
        self.is_called.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._close()

    async def stream(self) -> AsyncGenerator[int]:
        self.num_open = 5
        try:
            yield 1
            self.is_called.set()
            await asyncio.Event().wait()
        finally:
            await self._close()

    async def _close(self) -> None:
        while self.num_open:
            await asyncio.sleep(0)
            self.num_open -= 1


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        yield register_provider_model("gpt", kernel, slots=1)
        kernel.check()


@STEPS
async def test_an_agent_that_is_being_spawned_is_not_spawned_again(
    kernel: Kernel, num_steps: int
) -> None:
    agents, ann = AgentDirectory(), Caller.named("ann")

    async def identity() -> str:
        async with agents.ause(kernel, ann, AgentSettings()) as agent:
            return agent.identity

    first = asyncio.ensure_future(identity())
    await asyncio.sleep(0)
    await cancel_twice(first, num_steps)

    assert await identity() == "default/ann"


@STEPS
async def test_a_call_waits_for_its_provider_to_close(kernel: Kernel, num_steps: int) -> None:
    agent, provider = await kernel.aspawn("a"), Provider()

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            await slot.run(provider.answer())

    call = asyncio.ensure_future(ask())
    await provider.is_called.wait()
    await cancel_twice(call, num_steps)

    assert provider.num_open == 0
    async with apassthrough_call(agent, "gpt", messages="again") as slot:
        assert await slot.run(asyncio.sleep(0, "free")) == "free"


@STEPS
async def test_a_stream_waits_for_its_provider_to_close(kernel: Kernel, num_steps: int) -> None:
    agent, provider = await kernel.aspawn("a"), Provider()

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            async for _ in slot.iterate(provider.stream()):
                pass

    call = asyncio.ensure_future(ask())
    await provider.is_called.wait()
    await cancel_twice(call, num_steps)

    assert provider.num_open == 0
    async with apassthrough_call(agent, "gpt", messages="again") as slot:
        assert await slot.run(asyncio.sleep(0, "free")) == "free"
