"""Growth of memory and time with the number of live agents.

Every size runs in a process of its own, twice: once for times and resident memory, once
with tracemalloc, which slows everything down, for the memory that Python allocated.

    python bench/scale.py [--quick]
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from _report import arguments, show, write

from aios_core import Kernel, KernelConfig
from aios_core.config import SchedulerConfig
from aios_core.cores.scripted import ScriptedCore

SIZES = (100, 1_000, 10_000)
GOAL_KB = 100.0
KIB = 1024.0
STATM = Path("/proc/self/statm")

CAPTION = (
    "KB per agent: growth of resident memory (in brackets: of what Python allocated) from an empty "
    "kernel to\none with that many agents. idle: spawned, has made a call. waiting: has a call in "
    "the queue, awaited by a task.\nTimes are per agent: spawn it; serve one call of it while "
    "all the others call too; cancel its waiting call; exit."
)


def memory_bytes(*, traced: bool) -> float:
    """Return the bytes that Python allocated, or that are resident."""
    gc.collect()
    if traced:
        return float(tracemalloc.get_traced_memory()[0])
    if STATM.exists():
        return float(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


async def grow(agents: int, *, traced: bool) -> dict[str, float]:
    """The figures of one size."""
    if traced:
        tracemalloc.start()
    config = KernelConfig(scheduler=SchedulerConfig(max_waiting=2 * agents), drain_s=0.0)
    cores = [
        ScriptedCore("pong", name="fast", models=["fast"]),
        ScriptedCore("pong", name="slow", models=["slow"], latency_s=3_600.0),
    ]
    figures: dict[str, float] = {}

    def kb_per_agent(before: float) -> float:
        return (memory_bytes(traced=traced) - before) / agents / KIB

    def lap(name: str, began: float) -> None:
        figures[f"{name}_us"] = 1e6 * (time.perf_counter() - began) / agents

    async with Kernel(config, cores=cores) as kernel:
        async with await kernel.aspawn("warm up") as first:
            await first.llm.agenerate("ping")
        empty = memory_bytes(traced=traced)

        began = time.perf_counter()
        living = [await kernel.aspawn(f"agent {number}") for number in range(agents)]
        lap("spawn", began)

        began = time.perf_counter()
        await asyncio.gather(*(agent.llm.agenerate("ping") for agent in living))
        lap("call", began)
        figures["idle_kb"] = kb_per_agent(empty)

        calls = [asyncio.create_task(a.llm.agenerate("ping", model="slow")) for a in living]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        figures["waiting_kb"] = kb_per_agent(empty)

        began = time.perf_counter()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        lap("cancel", began)

        began = time.perf_counter()
        for agent in living:
            await kernel.aexit(agent.pid)
        lap("exit", began)
        kernel.check()
    return figures


def in_process(agents: int, *, traced: bool) -> dict[str, float]:
    """Run `grow` in a fresh process."""
    command = [sys.executable, __file__, "--one", str(agents), str(int(traced))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return dict(json.loads(ran.stdout))


def row(agents: int) -> dict[str, Any]:
    plain, traced = in_process(agents, traced=False), in_process(agents, traced=True)
    return {
        "system": "kernel",
        "agents": agents,
        **plain,
        "idle_traced_kb": traced["idle_kb"],
        "waiting_traced_kb": traced["waiting_kb"],
        "per_second": 1e6 / plain["call_us"],
    }


def main() -> None:
    sizes = SIZES[:2] if arguments(__doc__).quick else SIZES
    rows = [row(agents) for agents in sizes]
    columns = {
        "agents": "{agents:,}",
        "idle": "{idle_kb:.1f} KB ({idle_traced_kb:.1f})",
        "waiting": "{waiting_kb:.1f} KB ({waiting_traced_kb:.1f})",
        "spawn": "{spawn_us:.0f} us",
        "call": "{call_us:.0f} us",
        "cancel": "{cancel_us:.0f} us",
        "exit": "{exit_us:.0f} us",
    }
    show("Live agents in one kernel", columns, rows, CAPTION)
    most, fewer = rows[-1], rows[-2]
    growth = {name: most[name] / fewer[name] for name in ("spawn_us", "call_us", "exit_us")}
    print(
        f"Goal: {most['idle_kb']:.1f} KB per idle agent ({GOAL_KB:.0f}); time per agent at "
        f"{most['agents']:,} against {fewer['agents']:,}: "
        + ", ".join(f"{name[:-3]} {ratio:.2f} x" for name, ratio in growth.items())
    )
    write("scale", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(asyncio.run(grow(int(sys.argv[2]), traced=sys.argv[3] == "1"))))
    else:
        main()
