"""A core with a server of its own: a stand-in for vLLM, run by this interpreter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aios_core.core import Starting
from aios_core.cores.vllm.core import VLLMCore
from aios_core.testing.core_contract import Rig

FAKE = Path(__file__).with_name("fake")


def environment(pids: Path, behavior: dict[str, Any]) -> dict[str, str]:
    return {
        "PYTHONPATH": str(FAKE),
        "FAKE_VLLM_PIDS": str(pids),
        "FAKE_VLLM": json.dumps(behavior),
    }


def options(pids: Path, **behavior: Any) -> dict[str, Any]:
    """The options of a core with a stand-in that behaves so."""
    return {"python": sys.executable, "env": environment(pids, behavior), "stop_s": 10.0}


def make_core(pids: Path, behavior: dict[str, Any] | None = None, **fields: Any) -> VLLMCore:
    given = {**options(pids, **(behavior or {})), **fields}
    return VLLMCore("some/model", ["tiny"], **given)


@asynccontextmanager
async def running(core: VLLMCore) -> AsyncIterator[Rig]:
    """Start a core, and close it in the end."""
    rig = Rig(core, timeout_s=60.0)
    await core.start(rig.sink)
    try:
        yield rig
    finally:
        await core.close()
        await rig.settle()
        rig.check()


def stages(rig: Rig) -> list[str]:
    return [report.stage for report in rig.general if isinstance(report, Starting)]


def servers(pids: Path) -> list[tuple[int, int]]:
    """The process ids of each server that started, and of its worker."""
    if not pids.exists():
        return []
    lines = pids.read_text().splitlines()
    return [(int(server), int(worker)) for server, worker in map(str.split, lines)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def alive(pids: Path) -> list[int]:
    """The processes of all servers that are still there."""
    return [pid for pair in servers(pids) for pid in pair if is_alive(pid)]
