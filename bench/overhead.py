"""The cost of a syscall: LLM calls through the kernel to a core that answers at once.

Measured in the same run: a bare asyncio heap dispatch (the floor: a queue, a future,
and nothing else) and LiteLLM's Router with a mock reply, which is looked for in
`.venv-litellm` (python -m venv .venv-litellm && .venv-litellm/bin/pip install litellm).

    python bench/overhead.py [--quick]
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from _load import MAIN_RATE, RATES, measure, measure_threads
from _report import arguments, show, write

from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.process import RunawayGuard

HERE = Path(__file__).resolve().parent
LITELLM = HERE.parent / ".venv-litellm" / "bin" / "python"
SIZES = (1, 10, 250, 2_000)
MOST_THREADS = 250

_OFFERED = ", ".join(f"{rate:,}" for rate in RATES)

CAPTION = (
    "calls/s: closed loop, every agent calls again at once; capacity of one core, best of three "
    "windows.\nCPU: processor time of a call in it, the agent's own part included; less "
    "disturbed by neighbours.\np50, p99: open loop, "
    f"{_OFFERED} calls a second offered by all agents together, from the instant at\nwhich each "
    "was due, median of three windows; a dash where the capacity is below 1.2 x the rate."
)


class BareDispatch:
    """The floor: a heap of futures, and a callback that resolves them in order."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[str]]] = []
        self._seq = count()
        self._is_woken = False
        self._loop = asyncio.get_running_loop()

    async def call(self, agent: int) -> str:
        future = self._loop.create_future()
        heapq.heappush(self._heap, (agent, next(self._seq), future))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._drain)
        return str(await future)

    def _drain(self) -> None:
        self._is_woken = False
        while self._heap:
            heapq.heappop(self._heap)[2].set_result("pong")


def new_kernel() -> Kernel:
    """A kernel on a core that answers within `run`. The guard lets the same call be repeated."""
    config = KernelConfig(guard=RunawayGuard(max_repeats=None, max_calls=None))
    return Kernel(config, cores=[ScriptedCore("pong")])


@contextmanager
def kernel_in_thread() -> Iterator[Kernel]:
    with new_kernel() as kernel:
        yield kernel


async def bare(agents: int, seconds: float) -> dict[str, float]:
    return await measure(BareDispatch().call, agents, seconds)


async def on_own_loop(agents: int, seconds: float) -> dict[str, float]:
    """Agents are tasks on the loop on which the kernel runs."""
    async with new_kernel() as kernel:
        llms = [(await kernel.aspawn(f"agent {n}")).llm for n in range(agents)]
        return await measure(lambda n: llms[n].agenerate("ping"), agents, seconds)


def on_another_loop(agents: int, seconds: float) -> dict[str, float]:
    """Agents are tasks on one loop, the kernel runs on another, in a thread of its own."""
    with kernel_in_thread() as kernel:
        llms = [kernel.spawn(f"agent {n}").llm for n in range(agents)]
        return asyncio.run(measure(lambda n: llms[n].agenerate("ping"), agents, seconds))


def on_threads(agents: int, seconds: float) -> dict[str, float]:
    """Every agent is a thread."""
    with kernel_in_thread() as kernel:
        llms = [kernel.spawn(f"agent {n}").llm for n in range(agents)]
        return measure_threads(lambda n: llms[n].generate("ping"), agents, seconds)


def litellm(seconds: float) -> list[dict[str, Any]]:
    """Rows of LiteLLM's Router, from a process in its own environment."""
    if not LITELLM.exists():
        print("LiteLLM: skipped, there is no .venv-litellm")
        return []
    command = [str(LITELLM), str(HERE / "_litellm_router.py"), str(seconds), *map(str, SIZES)]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    with contextlib.suppress(ValueError, IndexError):
        return [dict(row) for row in json.loads(ran.stdout.splitlines()[-1])]
    print(f"LiteLLM: skipped, it failed:\n{ran.stderr[-500:]}")
    return []


def main() -> None:
    quick = arguments(__doc__).quick
    seconds = 0.6 if quick else 1.8
    systems = [
        ("bare asyncio heap", lambda n: asyncio.run(bare(n, seconds))),
        ("kernel, own loop", lambda n: asyncio.run(on_own_loop(n, seconds))),
        ("kernel, another loop", lambda n: on_another_loop(n, seconds)),
        ("kernel, threads", lambda n: on_threads(n, seconds)),
    ]
    rows: list[dict[str, Any]] = [
        {"system": system, "agents": agents, **run(agents)}
        for system, run in systems
        for agents in SIZES
        if "threads" not in system or agents <= MOST_THREADS
    ]
    rows += [{"system": "LiteLLM Router, mock", **row} for row in litellm(seconds)]
    columns = {"system": "{system}", "agents": "{agents:,}", "calls/s": "{per_second:,.0f}"}
    columns["CPU"] = "{cpu_us:,.0f}"
    for rate in RATES:
        columns[f"p50 p99 at {rate:,}/s"] = f"{{p50_us_at_{rate}:,.0f}} {{p99_us_at_{rate}:,.0f}}"
    show("One LLM syscall in microseconds, the model's time being zero", columns, rows, CAPTION)
    _judge(rows)
    write("overhead", rows)


def _judge(rows: list[dict[str, Any]]) -> None:
    """G1 of the project's goals: 250 agents, in process."""
    row = next(r for r in rows if r["system"] == "kernel, own loop" and r["agents"] == 250)
    p50, p99, rate = row.get("p50_us", 1e9), row.get("p99_us", 1e9), row["per_second"]
    verdict = "met" if p50 <= 200 and p99 <= 2_000 and rate >= 5_000 else "missed"
    print(
        f"Goal (250 agents, own loop, {MAIN_RATE:,} calls/s offered): p50 {p50:.0f} us (200), "
        f"p99 {p99:.0f} us (2,000), {rate:,.0f} calls/s (5,000): {verdict}"
    )


if __name__ == "__main__":
    main()
