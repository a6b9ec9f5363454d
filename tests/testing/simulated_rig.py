"""A started simulated core on virtual time, and what it reported when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import TypeVar

from aios_core.core import (
    CoreDown,
    Finished,
    Preempted,
    Progress,
    Report,
    Run,
)
from aios_core.messages import Message, Sampling
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, SimulatedCore, run_virtual

T = TypeVar("T")

# Round numbers: a step of one sequence takes 0.11 s, of two 0.12 s, and so on.
COSTS = CostModel(
    prefill_tokens_per_s=1_000,
    attention_tokens=math.inf,
    kv_read_tokens_per_s=math.inf,
    block_tokens=1,
    decode_step_s=0.10,
    decode_per_sequence_s=0.01,
    kv_capacity_tokens=1_000,
    swap_tokens_per_s=10_000,
    slots=8,
    prefill_chunk_tokens=100,
)


class Bench:
    """A started core, and what it reported when."""

    def __init__(self, core: SimulatedCore) -> None:
        self.core = core
        self.log: list[tuple[float, Report]] = []
        self._ids = count(1)
        self._news = asyncio.Event()

    def sink(self, reports: Sequence[Report]) -> None:
        now = asyncio.get_running_loop().time()
        self.log += [(now, report) for report in reports]
        self.core.check()
        self._news.set()

    def go(
        self,
        prompt: int,
        output: int,
        *,
        snapshot: Snapshot | None = None,
        warm: Snapshot | None = None,
        shared: int | None = None,
        common: int = 0,
        pid: int = 1,
        sampling: Sampling | None = None,
    ) -> int:
        extra = {"sim_prompt_tokens": prompt, "sim_output_tokens": output}
        if common:
            extra["sim_shared_tokens"] = common
        if shared is not None:
            extra["sim_context_tokens"] = shared
        request = LLMGenerate(
            (Message("user", "go"),), sampling=sampling or Sampling(), extra=extra
        )
        run_id = next(self._ids)
        prepared = self.core.prepare(request)
        self.core.run(Run(run_id, pid, request, prepared, snapshot=snapshot, warm=warm))
        return run_id

    def ends(self, run_id: int) -> list[tuple[float, Report]]:
        return [
            (at, report)
            for at, report in self.log
            if not isinstance(report, Progress | CoreDown) and report.run_id == run_id
        ]

    async def end(self, run_id: int) -> tuple[float, Report]:
        while not self.ends(run_id):
            self._news.clear()
            await self._news.wait()
        return self.ends(run_id)[0]

    async def finished(self, run_id: int) -> tuple[float, Finished]:
        at, report = await self.end(run_id)
        assert isinstance(report, Finished)
        return at, report

    async def preempted(self, run_id: int) -> Snapshot:
        self.core.preempt(run_id)
        _, report = await self.end(run_id)
        assert isinstance(report, Preempted)
        return report.snapshot


def on_bench(
    main: Callable[[Bench], Awaitable[T]],
    costs: CostModel = COSTS,
    report_every: int = 16,
    *,
    kv_snapshots: bool = True,
) -> T:
    """Run a test's body on virtual time with a started core; afterwards it holds nothing."""

    async def body() -> T:
        core = SimulatedCore(costs=costs, kv_snapshots=kv_snapshots, report_every=report_every)
        bench = Bench(core)
        await bench.core.start(bench.sink)
        result = await main(bench)
        bench.core.check()
        await bench.core.close()
        assert bench.core.load().kv_tokens == 0
        return result

    return run_virtual(body())
