"""A missed deadline names what the syscall was waiting for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    DeadlineExceeded,
    Kernel,
    KernelConfig,
    tool,
)
from aios_core.access.audit.trail import AuditTrail
from aios_core.config import AccessConfig, StateConfig, ToolsConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.memory.requests import MemoryList
from aios_core.state import StateOpener

from .drawer import PATIENCE, Doorkeeper, Drawer, DrawerKernel, until


async def test_a_deadline_says_that_a_tool_had_no_slot_or_ran(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()
    go_on.set()

    @tool(read_only=True, trusted=True, parallel=1)
    def slow() -> None:
        """Run until the test ends it."""
        started.set()
        go_on.wait(PATIENCE)

    config = KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(tmp_path / "state")),
        tools=ToolsConfig(plugins=()),
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")
        await kernel.aload_tools(slow)
        await agent.tools.arun("slow", {})  # all that is opened at the first call is open
        started.clear()
        go_on.clear()
        running = asyncio.ensure_future(agent.tools.arun("slow", {}, timeout_s=3.0))
        await until(started)

        with pytest.raises(DeadlineExceeded, match="waiting for a slot of tool 'slow'"):
            await agent.tools.arun("slow", {}, timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="running tool 'slow'"):
            await running
        go_on.set()


async def test_a_deadline_says_that_the_state_directory_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, opens = threading.Event(), StateOpener._open

    def slowly(self: StateOpener) -> Any:
        gate.wait(PATIENCE)
        return opens(self)

    monkeypatch.setattr(StateOpener, "_open", slowly)
    config = KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(tmp_path / "state")),
        access=AccessConfig(audit="off"),
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="waiting for the state directory to be opened"):
            await agent.port.acall(MemoryList(), timeout_s=0.05)
        gate.set()


async def test_a_deadline_of_a_model_call_says_that_an_approval_was_waited_for(
    drawer: Drawer, door: Doorkeeper
) -> None:
    async with DrawerKernel(drawer, door) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="the call was waiting for an approval"):
            await agent.llm.agenerate("hello", model="asked-model", timeout_s=0.01)


async def test_a_deadline_says_that_the_audit_trail_was_waited_for_and_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = asyncio.Event()

    async def slow(_: object) -> None:
        await opening.wait()

    monkeypatch.setattr(AuditTrail, "ready", slow)
    config = KernelConfig(drain_s=0.0, state=StateConfig(directory=str(tmp_path / "state")))
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="waiting for the audit trail to be opened"):
            await agent.port.acall(MemoryList(), timeout_s=0.01)
