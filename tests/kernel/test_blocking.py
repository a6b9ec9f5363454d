"""Nothing that may block runs on an event loop: neither on the kernel's nor on a caller's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from aios_core import Kernel, KernelConfig, tool
from aios_core.config import CoreConfig, StateConfig, ToolsConfig
from aios_core.cores import RecordingCore, ScriptedCore
from aios_core.testing.stub_server import StubServer
from tests.puppet import PATIENCE

from .blocking import blocking_calls

COLD = """
import asyncio, sys
from aios_adapters import adefault_kernel
from tests.kernel.blocking import blocking_calls

async def main():
    with blocking_calls() as found:
        kernel = await adefault_kernel()
        agent = await kernel.aspawn("cold")
        await agent.llm.agenerate("hello", max_tokens=4)
        async with agent.llm.astream("hello", max_tokens=4) as stream:
            async for _ in stream:
                pass
        await asyncio.to_thread(kernel.close)
    print(*found, sep="\\n", end="")

asyncio.run(main())
"""


def test_a_cold_first_call_blocks_no_loop() -> None:
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", COLD],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=12 * PATIENCE,
        check=True,
    )

    assert done.stdout == ""


@tool(read_only=True, trusted=True)
def echo() -> str:
    """Return a text."""
    return "said"


async def use(kernel: Kernel, place: Path) -> None:
    """Make one request of each kind."""
    agent = await kernel.aspawn("worker")
    await agent.llm.agenerate("hello")
    await agent.memory.awrite("note", "remember")
    assert await agent.memory.aread("note") == "remember"
    await agent.storage.awrite("/small.txt", "x")
    await agent.storage.awrite("/large.txt", "x" * 1_000_000)
    await agent.storage.aread_text("/large.txt")
    await kernel.aload_tools(echo)
    assert await agent.tools.arun("echo", {}) == "said"
    await kernel.asave_agent(agent.pid, place / "saved")
    await kernel.aexit(agent.pid)
    await kernel.aload_agent(place / "saved")
    await kernel.areload_access_policy()


@pytest.mark.parametrize("is_local", [True, False], ids=["own loop", "thread"])
async def test_no_part_of_a_kernel_blocks_a_loop(tmp_path: Path, is_local: bool) -> None:
    config = KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(tmp_path / "state")),
        tools=ToolsConfig(plugins=()),
    )
    core = RecordingCore(ScriptedCore("hi"), tmp_path / "calls.jsonl")
    with blocking_calls() as found:
        kernel = Kernel(config, cores=[core])
        if is_local:
            async with kernel:
                await use(kernel, tmp_path)
        else:
            await asyncio.to_thread(kernel.start)
            await use(kernel, tmp_path)
            await asyncio.to_thread(kernel.close)

    assert found == []


async def test_an_endpoint_is_reached_without_blocking_a_loop() -> None:
    with StubServer() as server:
        core = CoreConfig("openai", models=("stub",), base_url=server.base_url)
        with blocking_calls() as found:
            async with Kernel(KernelConfig(drain_s=0.0, cores=(core,))) as kernel:
                await (await kernel.aspawn("a")).llm.agenerate("hello")

    assert found == []
