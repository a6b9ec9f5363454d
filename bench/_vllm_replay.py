"""The calls of a real server's run, made again on the simulated device.

The replayed agents have the same prompts, answers and tools, and each call's prompt has all of
the prompt before it in common. What is evicted before its agent returns depends on the speed of
the device next to that of the tools, so the device gets the speed with which its run takes as long
as the real one did. The proportions of its rates are measured on the same server, by lone calls.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import openai
from _simulated_systems import Direct
from _vllm_server import MODEL, MeasuredServer

from aios_core.messages import Message, Sampling
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, SimulatedCore, run_virtual

_GO = (Message("user", "go on"),)  # prose: ok


@dataclass(frozen=True)
class CacheUse:
    """The prompt tokens that a device looked up in its prefix cache, and those it computed."""

    queried_tokens: float
    computed_tokens: float
    makespan_s: float

    @property
    def hits(self) -> float:
        return 1 - self.computed_tokens / self.queried_tokens


def replay(row: Mapping[str, Any], costs: CostModel) -> CacheUse:
    """Make the calls of a row of `bench/vllm.py` on a simulated device, as fast as the server."""
    slowest, fastest = 0.1, 10.0  # of the speed that was measured by lone calls
    while fastest / slowest > 1.02:
        speed = math.sqrt(slowest * fastest)
        use = run_virtual(_replay(row, _faster(costs, speed)))
        if use.makespan_s > row["makespan_s"]:
            slowest = speed
        else:
            fastest = speed
    return use


def _faster(costs: CostModel, speed: float) -> CostModel:
    return replace(
        costs,
        prefill_tokens_per_s=costs.prefill_tokens_per_s * speed,
        decode_step_s=costs.decode_step_s / speed,
        decode_per_sequence_s=costs.decode_per_sequence_s / speed,
    )


async def _replay(row: Mapping[str, Any], costs: CostModel) -> CacheUse:
    core = SimulatedCore(costs=costs)
    system = Direct(core)
    await system.start()
    calls: dict[int, list[Mapping[str, Any]]] = {}
    for call in row["calls"]:
        calls.setdefault(call["agent"], []).append(call)
    await asyncio.gather(
        *(
            _live(system, number, row["starts_at"][number], row["tools_s"][number], own)
            for number, own in calls.items()
        )
    )
    await system.close()
    core.check()
    stats, now = core.stats, asyncio.get_running_loop().time()
    return CacheUse(stats.queried_tokens, stats.queried_tokens - stats.cached_tokens, now)


async def _live(
    system: Direct,
    pid: int,
    starts_at: float,
    tools_s: Sequence[float],
    calls: Sequence[Mapping[str, Any]],
) -> None:
    await asyncio.sleep(starts_at)
    before = 0
    for position, (call, tool_s) in enumerate(zip(calls, tools_s, strict=True)):
        extra = {
            "sim_prompt_tokens": call["prompt_tokens"],
            "sim_output_tokens": call["output_tokens"],
            "sim_context_tokens": before,
        }
        await system.generate(pid, LLMGenerate(_GO, sampling=Sampling(), extra=extra))
        before = call["prompt_tokens"]
        if position + 1 < len(calls):
            await asyncio.sleep(tool_s)


def measure_costs(server: MeasuredServer) -> CostModel:
    """Measure a server's rates by lone calls, and return the cost model of a device like it."""
    settings = server.settings
    short_s, long_s, answer_s = asyncio.run(_measure_lone_calls(server))
    decode_s = max(1e-4, (answer_s - short_s) / 63)
    return CostModel(
        prefill_tokens_per_s=1_600 / max(1e-3, long_s - short_s),
        attention_tokens=math.inf,  # within what was measured
        decode_step_s=decode_s,
        decode_per_sequence_s=decode_s / 20,
        kv_read_tokens_per_s=math.inf,
        kv_capacity_tokens=settings.kv_tokens,
        block_tokens=settings.block_size,
        prefill_chunk_tokens=settings.chunk,
        context_window=settings.window,
    )


async def _measure_lone_calls(server: MeasuredServer) -> tuple[float, float, float]:
    """Seconds of a short prompt, of a long one, and of a long answer; the best of three each."""
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:

        async def timed(num_words: int, max_tokens: int, text: str) -> float:
            began = time.monotonic()
            await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{text} " + "the " * num_words}],
                temperature=0,
                max_tokens=max_tokens,
                extra_body={"ignore_eos": True},
            )
            return time.monotonic() - began

        async def best(num_words: int, max_tokens: int) -> float:
            # Different beginnings, so that none is in the prefix cache.
            return min([await timed(num_words, max_tokens, text) for text in ("a", "b", "c")])

        return await best(20, 1), await best(1_620, 1), await best(20, 64)
