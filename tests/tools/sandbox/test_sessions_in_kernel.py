"""Tools run code in sessions of their callers, through the kernel."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from aios_core import Agent, Kernel, KernelConfig, Tool, ToolContext
from aios_core.config import AccessConfig, SandboxConfig, StateConfig, ToolsConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import (
    KernelClosed,
    SyscallCancelled,
    ToolError,
)
from aios_core.testing import Leftovers, cooperative_script

from .probes import gone, processes_with, there
from .session_rig import PATIENCE, no_directory_left


async def cell(code: str, context: ToolContext) -> dict[str, Any]:
    """Run a cell and return its output."""
    heard: list[str] = []
    thread = threading.get_ident()

    def hear(_: str, text: str) -> None:
        assert threading.get_ident() == thread
        heard.append(text)

    result = await context.code_runner.run_in_session(
        context.caller, "a", code, labels=context.labels, on_output=hear
    )
    return {"heard": "".join(heard), "value": result.value}


async def end(context: ToolContext) -> bool:
    """End the session."""
    return await context.code_runner.end_session(context.caller, "a")


TOOLS = [
    Tool("cell", "", {"properties": {"code": {}}}, cell, context_name="context"),
    Tool("end", "", {}, end, context_name="context"),
]


@pytest.fixture
async def kernel(config: SandboxConfig) -> AsyncIterator[Kernel]:
    settings = KernelConfig(
        state=StateConfig(directory=":memory:"),
        access=AccessConfig(approver="allow"),
        tools=ToolsConfig(plugins=(), sandbox=config),
        drain_s=0.0,
    )
    before = Leftovers.now().children
    with no_directory_left():
        async with Kernel(settings, cores=[ScriptedCore(cooperative_script)]) as kernel:
            yield kernel
        assert not Leftovers.now().children - before


async def alice(kernel: Kernel) -> Agent:
    agent = await kernel.aspawn("alice")
    for tool in TOOLS:
        await agent.tools.aoffer(tool)
    return agent


async def run(agent: Agent, code: str) -> Any:
    return await agent.tools.arun("cell", {"code": code})


async def test_a_tool_runs_cells_in_a_session_of_its_caller(kernel: Kernel) -> None:
    agent = await alice(kernel)
    await agent.storage.acreate("in.txt", b"hello")

    first = await run(agent, "x = open('in.txt').read(); print('read')")
    second = await run(agent, "open('out.txt', 'w').write(x.upper())")

    assert first == {"heard": "read\n", "value": None}
    assert second["value"] == "5"
    assert await agent.storage.aread("out.txt") == b"HELLO"


async def test_output_reaches_a_tool_while_the_kernels_loop_is_busy(kernel: Kernel) -> None:
    agent = await kernel.aspawn("alice")
    began, loop, came = asyncio.Event(), asyncio.get_running_loop(), threading.Event()

    def hear(_: str, text: str) -> None:
        if "1" in text:
            loop.call_soon_threadsafe(began.set)
        if "2" in text:
            came.set()

    async def count(context: ToolContext) -> None:
        code = "import time; print(1); time.sleep(0.3); print(2)"
        await context.code_runner.run_in_session(context.caller, "a", code, on_output=hear)

    await agent.tools.aoffer(Tool("count", "", {}, count, context_name="context"))
    running = asyncio.create_task(agent.tools.arun("count"))
    async with asyncio.timeout(PATIENCE):
        await began.wait()

    assert came.wait(PATIENCE)  # this is the kernel's loop

    await running


async def test_a_tool_can_end_the_session(kernel: Kernel) -> None:
    agent = await alice(kernel)
    await run(agent, "x = 1")

    assert await agent.tools.arun("end") is True
    assert await agent.tools.arun("end") is False
    assert (await run(agent, "'x' in globals()"))["value"] == "False"


async def test_the_next_agent_of_the_same_identity_finds_no_session(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"exits-{uuid.uuid4()}"
    await run(agent, f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 999; : {marker}'])")
    assert await there(marker)

    await kernel.aexit(agent.pid)
    another = await alice(kernel)

    assert another.identity == agent.identity
    assert (await run(another, "'subprocess' in globals()"))["value"] == "False"
    assert await gone(marker)


async def test_a_call_that_is_cancelled_interrupts_its_cell(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"cancelled-{uuid.uuid4()}"
    code = f"import subprocess\nx = 1\nsubprocess.run(['sh', '-c', 'sleep 999; : {marker}'])"
    running = asyncio.create_task(run(agent, code))
    assert await there(marker)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert await gone(marker)
    assert (await run(agent, "x"))["value"] == "1"


async def test_a_busy_session_ends_with_the_kernel(kernel: Kernel) -> None:
    agent = await alice(kernel)
    marker = f"closed-{uuid.uuid4()}"
    code = f"import subprocess\nsubprocess.run(['sh', '-c', 'sleep 999; : {marker}'])"
    running = asyncio.create_task(run(agent, code))
    assert await there(marker)

    await kernel.aclose(0)

    with pytest.raises((KernelClosed, SyscallCancelled)):
        await running
    assert processes_with(marker) == []


async def run_once(code: str, context: ToolContext) -> str:
    """Run code on the caller's files."""
    result = await context.code_runner.run_for(context.caller, "python", code)
    if result.exit_code:
        raise ToolError("run_once", result.stderr)
    return result.stdout


RUN_ONCE = Tool("run_once", "", {"properties": {"code": {}}}, run_once, trusted=True,
                context_name="context")  # fmt: skip


async def heir_of_a_stranger(kernel: Kernel) -> Agent:
    """Make an agent that has read nothing yet, with a file that carries a label of the web."""
    first = await kernel.aspawn("alice")
    kernel.processes.mark(first.identity, frozenset({"tool:web"}))
    await first.storage.acreate("in.txt", b"evil")
    await kernel.aexit(first.pid)
    second = await kernel.aspawn("alice")
    await second.tools.aoffer(replace(TOOLS[0], trusted=True))
    await second.tools.aoffer(RUN_ONCE)
    assert kernel.processes.get(second.pid).labels == set()
    return second


@pytest.mark.parametrize("tool", ["cell", "run_once"])
async def test_code_marks_its_caller_with_the_files_that_it_could_read(
    kernel: Kernel, tool: str
) -> None:
    agent = await heir_of_a_stranger(kernel)

    await agent.tools.arun(tool, {"code": "print(open('in.txt').read())"})

    assert kernel.processes.get(agent.pid).labels == {"tool:web"}


async def test_code_that_fails_marks_its_caller_too(kernel: Kernel) -> None:
    agent = await heir_of_a_stranger(kernel)

    with pytest.raises(ToolError, match="evil"):
        await agent.tools.arun("run_once", {"code": "raise OSError(open('in.txt').read())"})

    assert kernel.processes.get(agent.pid).labels == {"tool:web"}


async def test_an_outcome_that_is_asked_for_again_brings_its_labels_back(kernel: Kernel) -> None:
    agent = await heir_of_a_stranger(kernel)
    arguments = {"code": "print(open('in.txt').read())"}
    await agent.tools.arun("run_once", arguments, idempotency_key="k")
    await kernel.aexit(agent.pid)
    await (again := await kernel.aspawn("alice")).tools.aoffer(RUN_ONCE)

    assert await again.tools.arun("run_once", arguments, idempotency_key="k") == "evil\n"
    assert kernel.processes.get(again.pid).labels == {"tool:web"}
