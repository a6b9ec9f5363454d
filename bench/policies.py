"""Every scheduling policy under four loads: fairness, turnaround, and life with too little memory.

All of it runs on `SimulatedCore` in virtual time, so minutes of a GPU take a second
and every run can be repeated. Each load is drawn with several seeds, and all systems
get the same draws; ± is a 95 % confidence interval over the seeds, of ratios seed by seed.

`direct` is the baseline without a kernel: each call goes straight to the engine, which
queues, batches, keeps prefixes and evicts as vLLM does.

    python bench/policies.py [--quick]
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, Protocol

from _report import arguments, jain, mean_ci95, quantile, show, write

from aios_core import Kernel, KernelConfig
from aios_core.config import ContextConfig, GroupConfig, SchedulerConfig
from aios_core.core import Failed, Finished, Progress, Report, ReportSink, Run
from aios_core.messages import Message, Sampling
from aios_core.process import RunawayGuard
from aios_core.scheduler import POLICIES
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, SimulatedCore, run_virtual

DIRECT = "direct"
MAX_TOKENS = 512  # what callers allow; answers are shorter
HOST_BYTES = 64 << 30  # memory of the host, for KV images
GO = (Message("user", "go on"),)  # prose: ok


# --- loads --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One LLM call of an agent, and the tool that it runs afterwards."""

    new_tokens: int  # that the prompt adds to the context
    output_tokens: int
    tool_s: float


@dataclass(frozen=True)
class Plan:
    """The calls that one agent will make."""

    group: str
    starts_at: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Load:
    """Agents on a core, drawn from a seed."""

    name: str
    about: str
    draw: Callable[[random.Random], list[Plan]]
    costs: CostModel
    weights: Mapping[str, float] = field(default_factory=dict)
    ends_at: float | None = None  # cut off then; None: when all agents are done


def turns(
    rng: random.Random,
    num: tuple[int, int],
    new: tuple[int, int],
    out: tuple[int, int],
    tool_s: float,
) -> tuple[Turn, ...]:
    return tuple(
        Turn(rng.randint(*new), rng.randint(*out), rng.expovariate(1 / tool_s) if tool_s else 0.0)
        for _ in range(rng.randint(*num))
    )


def burst(rng: random.Random) -> list[Plan]:
    """Nine agents with short answers for each one that works long, within a minute."""
    plans = []
    for _ in range(200):
        if rng.random() < 0.9:
            work = turns(rng, (1, 3), (100, 500), (20, 100), 0.5)
        else:
            work = turns(rng, (6, 12), (100, 300), (300, 900), 0.5)
        plans.append(Plan("all", rng.uniform(0, 60), work))
    return plans


def noisy_neighbour(rng: random.Random) -> list[Plan]:
    """A crowd with long answers, and a few with short ones who come a little later."""
    heavy = [
        Plan("heavy", 0.0, turns(rng, (3, 3), (200, 600), (300, 500), 0.2)) for _ in range(120)
    ]
    light = [
        Plan("light", rng.uniform(30, 33), turns(rng, (5, 5), (50, 150), (100, 200), 1.0))
        for _ in range(6)
    ]
    return heavy + light


def backlog(rng: random.Random) -> list[Plan]:
    """Three groups that always have more to do than they get."""
    return [
        Plan(group, 0.0, turns(rng, (200, 200), (5, 50), longest, 0.0))
        for group, num_agents, longest in (
            ("few", 24, (50, 500)),
            ("double", 24, (50, 500)),
            ("many", 96, (20, 200)),
        )
        for _ in range(num_agents)
    ]


def saturated(rng: random.Random) -> list[Plan]:
    """Agents with long prompts and growing contexts, which use tools between their calls."""
    plans = []
    for _ in range(48):
        first = turns(rng, (1, 1), (1_500, 3_000), (50, 150), 2.0)
        later = turns(rng, (7, 12), (200, 800), (50, 150), 2.0)
        plans.append(Plan("all", rng.uniform(0, 2), first + later))
    return plans


ROOMY = CostModel(slots=16, kv_capacity_tokens=1_000_000)  # memory for everybody
LOADS = (
    Load("burst", "200 agents within 60 s, a tenth of them long", burst, ROOMY),
    Load(
        "noisy neighbour",
        "6 light agents next to 120 heavy ones, of equal weight",
        noisy_neighbour,
        ROOMY,
        {"heavy": 1.0, "light": 1.0},
    ),
    Load(
        "backlog",
        "three groups of weights 1, 2 and 1 that never run dry, for 120 s",
        backlog,
        ROOMY,
        {"few": 1.0, "double": 2.0, "many": 1.0},
        ends_at=120.0,
    ),
    Load(
        "KV-saturated",
        "48 tool-using agents with contexts of 2,000 to 8,000 tokens, on memory for 60,000",
        saturated,
        CostModel(kv_capacity_tokens=60_000),
    ),
)


# --- systems ------------------------------------------------------------------------------------


class MeteredCore(SimulatedCore):
    """A simulated core that counts what each agent was served: prompt + 2 x generated tokens."""

    def __init__(self, costs: CostModel) -> None:
        super().__init__(costs=costs, report_every=8)
        self.service: dict[int, float] = defaultdict(float)
        self._pids: dict[int, int] = {}

    async def start(self, sink: ReportSink) -> None:
        def metered(reports: Sequence[Report]) -> None:
            for report in reports:
                if isinstance(report, Progress):
                    self.service[self._pids[report.run_id]] += 2 * report.num_tokens
            sink(reports)

        await super().start(metered)

    def run(self, run: Run) -> None:
        self._pids[run.id] = run.pid
        if run.snapshot is None:
            self.service[run.pid] += run.prepared.num_tokens
        super().run(run)


class System(Protocol):
    """Something that agents send their calls to."""

    async def join(self, group: str, /) -> int: ...

    async def generate(self, pid: int, request: LLMGenerate) -> None: ...

    async def close(self) -> None: ...


class Direct:
    """The engine alone: every call goes to it at once; its prefix cache keeps what it can."""

    def __init__(self, core: SimulatedCore) -> None:
        self._core = core
        self._pids, self._ids = count(1), count(1)
        self._pending: dict[int, tuple[int, asyncio.Future[None]]] = {}
        self._contexts: dict[int, Snapshot | None] = {}

    async def start(self) -> None:
        await self._core.start(self._sink)

    async def join(self, _group: str, /) -> int:
        return next(self._pids)

    async def generate(self, pid: int, request: LLMGenerate) -> None:
        run_id, future = next(self._ids), asyncio.get_running_loop().create_future()
        self._pending[run_id] = pid, future
        prepared, warm = self._core.prepare(request), self._contexts.pop(pid, None)
        self._core.run(Run(run_id, pid, request, prepared, warm=warm, wants_deltas=False))
        await future

    async def close(self) -> None:
        await self._core.close()

    def _sink(self, reports: Sequence[Report]) -> None:
        for report in reports:
            if isinstance(report, Finished):
                pid, future = self._pending.pop(report.run_id)
                self._contexts[pid] = report.context
                if not future.done():
                    future.set_result(None)
            elif isinstance(report, Failed):
                raise report.error


class UnderKernel:
    """A load of agents that call the core through a kernel."""

    def __init__(self, core: SimulatedCore, policy: str, weights: Mapping[str, float]) -> None:
        groups = {name: GroupConfig(weight=weight) for name, weight in weights.items()}
        config = KernelConfig(
            groups=groups,
            context=ContextConfig(host_bytes=HOST_BYTES),
            scheduler=SchedulerConfig(policy=policy),
            guard=RunawayGuard(max_repeats=None, max_calls=None),
            drain_s=0.0,
        )
        self._kernel = Kernel(config, cores=[core])
        self._agents: dict[int, Any] = {}

    async def start(self) -> None:
        await self._kernel.__aenter__()

    async def join(self, group: str, /) -> int:
        agent = await self._kernel.aspawn(f"{group} agent", group=group)
        self._agents[agent.pid] = agent
        return int(agent.pid)

    async def generate(self, pid: int, request: LLMGenerate) -> None:
        await self._agents[pid].llm.agenerate(
            request.messages, max_tokens=request.sampling.max_tokens, extra=request.extra
        )

    async def close(self) -> None:
        await self._kernel.__aexit__(None, None, None)


# --- one run ------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """The result of one draw of a load under one system."""

    turnaround_s: list[float]  # of each agent, in the order of the plans
    service: dict[str, float]  # by group
    makespan_s: float
    core: SimulatedCore


async def live(system: System, plan: Plan, pid: int) -> float:
    """Be one agent. Returns its turnaround in seconds."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(plan.starts_at)
    began, context = loop.time(), 0
    for turn in plan.turns:
        prompt = context + turn.new_tokens
        extra = {
            "sim_prompt_tokens": prompt,
            "sim_output_tokens": turn.output_tokens,
            "sim_context_tokens": context,
        }
        request = LLMGenerate(GO, sampling=Sampling(max_tokens=MAX_TOKENS), extra=extra)
        await system.generate(pid, request)
        context = prompt + turn.output_tokens
        await asyncio.sleep(turn.tool_s)
    return loop.time() - began


async def _simulate(name: str, load: Load, plans: Sequence[Plan]) -> Outcome:
    core = MeteredCore(load.costs)
    system = Direct(core) if name == DIRECT else UnderKernel(core, name, load.weights)
    await system.start()
    pids = [await system.join(plan.group) for plan in plans]
    tasks = [
        asyncio.create_task(live(system, plan, pid)) for plan, pid in zip(plans, pids, strict=True)
    ]
    await asyncio.wait(tasks, timeout=load.ends_at)
    now = asyncio.get_running_loop().time()
    service: dict[str, float] = defaultdict(float)
    for plan, pid in zip(plans, pids, strict=True):
        service[plan.group] += core.service[pid]
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    await system.close()
    core.check()
    if errors := [e for e in ends if isinstance(e, Exception)]:
        raise ExceptionGroup(f"{name} under {load.name}", errors)
    return Outcome([end for end in ends if isinstance(end, float)], dict(service), now, core)


def simulate(name: str, load: Load, plans: Sequence[Plan]) -> Outcome:
    """One draw of a load under one system, on virtual time."""
    return run_virtual(_simulate(name, load, plans))


# --- measures -----------------------------------------------------------------------------------


def measure(name: str, load: Load, seed: int) -> dict[str, float]:
    """The figures of one system under one draw."""
    plans = load.draw(random.Random(seed))
    outcome = simulate(name, load, plans)
    stats = outcome.core.stats
    figures = {"makespan_s": outcome.makespan_s, "thrashed": float(stats.num_thrashed)}
    prompts = stats.prefilled_tokens + stats.cached_tokens
    figures["cached"] = stats.cached_tokens / prompts if prompts else 0.0
    figures["tokens_per_s"] = stats.decoded_tokens / outcome.makespan_s
    if load.ends_at is None:
        figures["mean_s"] = statistics.fmean(outcome.turnaround_s)
        figures["p50_s"] = quantile(outcome.turnaround_s, 0.50)
        figures["p99_s"] = quantile(outcome.turnaround_s, 0.99)
    else:
        shares = [outcome.service[group] / weight for group, weight in load.weights.items()]
        figures["jain"] = jain(shares)
    if "light" in load.weights:
        figures |= _slowdown(load, plans, outcome)
    return figures


def _slowdown(load: Load, plans: Sequence[Plan], outcome: Outcome) -> dict[str, float]:
    """Return how much longer the light agents take than when they are alone on the core."""
    light = tuple(plan for plan in plans if plan.group == "light")
    alone = _alone_s(load.costs, light)
    pairs = zip(plans, outcome.turnaround_s, strict=True)
    beside = statistics.fmean([taken for plan, taken in pairs if plan.group == "light"])
    return {"light_s": beside, "light_alone_s": alone, "slowdown": beside / alone}


@cache
def _alone_s(costs: CostModel, plans: tuple[Plan, ...]) -> float:
    """Mean turnaround of some agents that have the core for themselves."""
    alone = Load("alone", "", lambda _: list(plans), costs)
    return statistics.fmean(simulate(DIRECT, alone, plans).turnaround_s)


def compare(load: Load, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row for every system."""
    rows, means = [], {}
    for name in (DIRECT, *POLICIES):
        began = time.perf_counter()
        draws = [measure(name, load, seed) for seed in seeds]
        means[name] = [draw.get("mean_s", 0.0) for draw in draws]
        row: dict[str, Any] = {
            "load": load.name,
            "system": name,
            "agents": len(load.draw(random.Random(0))),
            "seeds": len(seeds),
        }
        for key in draws[0]:
            row[key], row[f"{key}_ci95"] = mean_ci95([draw[key] for draw in draws])
        row["wall_s"] = (time.perf_counter() - began) / len(seeds)
        rows.append(row)
    if "mean_s" in rows[0]:
        for reference in (DIRECT, "fifo"):
            theirs = means[reference]
            for row in rows:  # seed by seed, since loads differ more than systems do
                ratios = [
                    mean / other for mean, other in zip(means[row["system"]], theirs, strict=True)
                ]
                key = f"mean_vs_{reference}"
                row[key], row[f"{key}_ci95"] = mean_ci95(ratios)
    return rows


def report(load: Load, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a load's table, with the columns that belong to it."""
    columns = {"system": "{system}"}
    if load.ends_at is None:
        columns |= {
            "mean turnaround": "{mean_s:.1f} s",
            "vs direct": "{mean_vs_direct:.2f} ± {mean_vs_direct_ci95:.2f}",
            "vs fifo": "{mean_vs_fifo:.2f} ± {mean_vs_fifo_ci95:.2f}",
        }
    if "light" in load.weights:
        columns |= {
            "light group": "{light_s:.1f} s",
            "alone": "{light_alone_s:.1f} s",
            "slowdown": "{slowdown:.2f} ± {slowdown_ci95:.2f}",
        }
    elif load.ends_at is None:
        columns |= {"p50": "{p50_s:.1f} s", "p99": "{p99_s:.1f} s"}
    else:
        columns |= {"Jain": "{jain:.4f} ± {jain_ci95:.4f}"}
    columns |= {"makespan": "{makespan_s:.0f} s", "tokens/s": "{tokens_per_s:.0f}"}
    if load.name == "KV-saturated":
        columns |= {"cached": "{cached:.0%}", "thrashed": "{thrashed:.0f}"}
    show(f"{load.name}: {load.about}", columns, rows)


def main() -> None:
    quick = arguments(__doc__).quick
    rows: list[dict[str, Any]] = []
    for load in LOADS:
        some = compare(load, range(2 if quick else 4))
        report(load, some)
        rows += some
    _judge(rows)
    write("policies", rows)


def _judge(rows: Sequence[Mapping[str, Any]]) -> None:
    """Compare the project's goals for policies with what was measured."""
    by = {(row["load"], row["system"]): row for row in rows}
    print(
        f"Goals: fair: Jain {by['backlog', 'fair']['jain']:.4f} (>= 0.99), light group's slowdown "
        f"{by['noisy neighbour', 'fair']['slowdown']:.2f} x (<= 1.1); las in the burst: "
        f"{by['burst', 'las']['mean_vs_fifo']:.2f} x fifo's mean turnaround; auto on too little "
        f"memory: {1 / by['KV-saturated', 'auto']['mean_vs_direct']:.1f} x faster than direct"
    )


if __name__ == "__main__":
    main()
