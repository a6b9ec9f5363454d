"""The way of a call through the code is short: a reader can follow it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import aios_core
from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from tests.puppet import virtual

ROOT = Path(aios_core.__file__).resolve().parent
MAX_FILES = 20


@virtual
async def test_one_llm_call_enters_at_most_20_files() -> None:
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(ROOT)):
            entered.add(file.removeprefix(f"{ROOT}/"))

    async with Kernel(KernelConfig(), cores=[ScriptedCore("pong")]) as kernel:
        agent = await kernel.aspawn("agent")
        await agent.llm.agenerate("ping")
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            await agent.llm.agenerate("ping")
        finally:
            sys.setprofile(before)

    entered = {file for file in entered if not file.startswith("testing/")}  # the virtual clock
    assert "scheduler/dispatcher.py" in entered
    assert len(entered) <= MAX_FILES, sorted(entered)
