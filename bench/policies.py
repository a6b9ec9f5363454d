"""Every scheduling policy on a simulated device: too little KV memory, bursts, and fairness.

All of it runs on `SimulatedCore`, which behaves as vLLM's engine does, in virtual time: hours of a
GPU take seconds, and every run can be repeated. Each load is drawn with several seeds, and all
systems get the same draws; ± is a 95 % confidence interval over the seeds, of ratios seed by seed.

`direct` is the baseline without a kernel: each call goes straight to the engine, which queues,
batches, keeps prefixes and evicts. Next to the policies are two gates in front of the same
engine: an oracle that knows how much work is left for each agent, and the rule of ThunderAgent.

    python bench/policies.py [--quick] [--seeds 1 2] [--loads "coding, 64"] [--systems direct las]
    python bench/policies.py --show FILE FILE ...
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from _report import jain, make_parser, mean_ci95, quantile, show, write
from _simulated_gates import GATES
from _simulated_loads import LOADS, Load, Plan
from _simulated_systems import DIRECT, MeteredCore, System, UnderKernel, Wait
from _simulated_systems import Direct as DirectSystem

from aios_core.messages import Message, Sampling
from aios_core.scheduler import POLICIES
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, run_virtual

GO: Final = (Message("user", "go on"),)  # prose: ok
QUICK: Final = ("burst", "noisy neighbour", "backlog", "coding, 32", "coding, 8")
Row = Mapping[str, Any]


# --- one run ------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """The result of one draw of a load under one system."""

    turnaround_s: list[float]  # of each agent, in the order of the plans
    service: dict[str, float]  # by group
    makespan_s: float
    num_calls: int
    core: MeteredCore


def open_system(name: str, core: MeteredCore, load: Load) -> System:
    """Put a system in front of a core: none, a gate, or a kernel with a policy."""
    if name == DIRECT:
        return DirectSystem(core)
    if name in GATES:
        return GATES[name](core)
    return UnderKernel(core, name, load.weights)


async def live(system: System, core: MeteredCore, load: Load, plan: Plan, pid: int) -> float:
    """Be one agent. Returns its turnaround in seconds."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(plan.starts_at)
    began, context = loop.time(), load.system_tokens
    for position, turn in enumerate(plan.turns):
        prompt = context + turn.new_tokens
        extra = {
            "sim_prompt_tokens": prompt,
            "sim_output_tokens": turn.output_tokens,
            "sim_context_tokens": context,
            "sim_shared_tokens": load.system_tokens,
        }
        sampling = Sampling(max_tokens=load.max_tokens)
        core.note_call(pid, prompt)
        await system.generate(pid, LLMGenerate(GO, sampling=sampling, extra=extra))
        context = prompt + turn.output_tokens
        if position + 1 < len(plan.turns):
            await asyncio.sleep(turn.tool_s)
    ended = loop.time()
    system.exit(pid)
    return ended - began


async def _simulate(name: str, load: Load, plans: Sequence[Plan]) -> Outcome:
    core = MeteredCore(load.costs)
    system = open_system(name, core, load)
    await system.start()
    pids = [await system.join(plan) for plan in plans]
    tasks = [
        asyncio.create_task(live(system, core, load, plan, pid))
        for plan, pid in zip(plans, pids, strict=True)
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
    turnaround_s = [end for end in ends if isinstance(end, float)]
    return Outcome(turnaround_s, dict(service), now, len(core.waits), core)


def simulate(name: str, load: Load, plans: Sequence[Plan]) -> Outcome:
    """One draw of a load under one system, on virtual time."""
    return run_virtual(_simulate(name, load, plans))


# --- measures -----------------------------------------------------------------------------------


def measure(name: str, load_name: str, seed: int) -> dict[str, Any]:
    """The figures of one system under one draw."""
    load = LOADS[load_name]
    began = time.perf_counter()
    plans = load.draw(random.Random(seed))
    outcome = simulate(name, load, plans)
    stats = outcome.core.stats
    return {
        "load": load.name,
        "system": name,
        "seed": seed,
        "agents": len(plans),
        "demand": sum(_last_context(plan) for plan in plans) / load.costs.kv_capacity_tokens,
        "makespan_s": outcome.makespan_s,
        "calls_per_s": outcome.num_calls / outcome.makespan_s,
        "engine_preemptions": float(stats.num_thrashed),
        "hits": stats.cached_tokens / max(1, stats.queried_tokens),
        "prefill_tokens": float(stats.prefilled_tokens),
        **_times(load, outcome),
        **_longest_waits(outcome.core.waits),
        **(_slowdown(load, plans, outcome) if "light" in load.weights else {}),
        "wall_s": time.perf_counter() - began,
    }


def _last_context(plan: Plan) -> int:
    return sum(turn.new_tokens + turn.output_tokens for turn in plan.turns)


def _times(load: Load, outcome: Outcome) -> dict[str, float]:
    if load.ends_at is None:
        return {
            "mean_s": statistics.fmean(outcome.turnaround_s),
            "p50_s": quantile(outcome.turnaround_s, 0.50),
            "p99_s": quantile(outcome.turnaround_s, 0.99),
        }
    return {
        "jain": jain([outcome.service[group] / weight for group, weight in load.weights.items()])
    }


def _longest_waits(waits: Sequence[Wait]) -> dict[str, float]:
    """The longest waits of the quarter of calls with the largest prompts, and of the smallest."""
    sizes = [wait.prompt_tokens for wait in waits]
    small, large = quantile(sizes, 0.25), quantile(sizes, 0.75)
    return {
        "longest_large_s": max(each.wait_s for each in waits if each.prompt_tokens >= large),
        "longest_small_s": max(each.wait_s for each in waits if each.prompt_tokens <= small),
    }


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
    alone = Load("alone", "", lambda _: list(plans), costs, max_tokens=512)
    return statistics.fmean(simulate(DIRECT, alone, plans).turnaround_s)


# --- tables -------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each system under each load: means over the seeds, and ratios seed by seed."""
    cells: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        cells.setdefault((row["load"], row["system"]), {})[row["seed"]] = row
    return [
        _summary(runs, {of: cells.get((load, of), {}) for of in (DIRECT, "fifo", "oracle")})
        for (load, _), runs in cells.items()
    ]


def _summary(
    runs: Mapping[int, Row], references: Mapping[str, Mapping[int, Row]]
) -> dict[str, Any]:
    first = next(iter(runs.values()))
    row: dict[str, Any] = {"load": first["load"], "system": first["system"], "seeds": len(runs)}
    for name, value in first.items():
        if isinstance(value, float):
            row[name], row[f"{name}_ci95"] = mean_ci95([run[name] for run in runs.values()])
    if "mean_s" not in first:
        return row
    for reference, theirs in references.items():
        pairs = [(theirs[seed], run) for seed, run in runs.items() if seed in theirs]
        for figure in ("mean_s", "p99_s", "prefill_tokens") if pairs else ():
            key = f"{figure}_vs_{reference}"
            ratios = [run[figure] / other[figure] for other, run in pairs]
            row[key], row[f"{key}_ci95"] = mean_ci95(ratios)
    if direct := references[DIRECT]:
        sooner = [direct[seed]["mean_s"] / run["mean_s"] for seed, run in runs.items()]
        row["sooner"], row["sooner_ci95"] = mean_ci95(sooner)
        row["sooner_min"] = min(sooner)
    return row


SATURATING: Final = {
    "system": "{system}",
    "mean": "{mean_s:.0f} s",
    "sooner": "{sooner:.2f} ± {sooner_ci95:.2f}",
    "worst seed": "{sooner_min:.2f}",
    "p99 / direct": "{p99_s_vs_direct:.2f} ± {p99_s_vs_direct_ci95:.2f}",
    "mean / oracle": "{mean_s_vs_oracle:.2f}",
    "hits": "{hits:.2f}",
    "prefill / direct": "{prefill_tokens_vs_direct:.2f}",
    "preempted": "{engine_preemptions:.0f}",
    "calls/s": "{calls_per_s:.2f}",
    "longest wait, large / small": "{longest_large_s:.0f} / {longest_small_s:.0f} s",
}
ROOMY: Final = {
    "system": "{system}",
    "mean": "{mean_s:.1f} s",
    "vs direct": "{mean_s_vs_direct:.2f} ± {mean_s_vs_direct_ci95:.2f}",
    "vs fifo": "{mean_s_vs_fifo:.2f} ± {mean_s_vs_fifo_ci95:.2f}",
    "p99 vs fifo": "{p99_s_vs_fifo:.2f} ± {p99_s_vs_fifo_ci95:.2f}",
}
LIGHT: Final = {
    "light group": "{light_s:.1f} s",
    "alone": "{light_alone_s:.1f} s",
    "slowdown": "{slowdown:.2f} ± {slowdown_ci95:.2f}",
}
BACKLOG: Final = {"system": "{system}", "Jain": "{jain:.4f} ± {jain_ci95:.4f}"}


def report(rows: Sequence[Row]) -> None:
    """Print a table for each load, with the columns that belong to it."""
    summaries = summarise(rows)
    for name in dict.fromkeys(row["load"] for row in summaries):
        load, some = LOADS[name], [row for row in summaries if row["load"] == name]
        columns = SATURATING if load.is_saturating else BACKLOG if load.ends_at else ROOMY
        if "light" in load.weights:
            columns = {**columns, **LIGHT}
        demand = f", demand {some[0]['demand']:.1f} times the KV memory"
        caption = f"{some[0]['seeds']} seeds" + (demand if load.is_saturating else "")
        show(f"{load.name}: {load.about}", columns, some, caption)


def _job(job: tuple[str, str, int]) -> dict[str, Any]:
    load, system, seed = job
    row = measure(system, load, seed)
    mean = f"mean {row['mean_s']:.1f} s, " if "mean_s" in row else ""
    print(
        f"{load}, {system}, seed {seed}: {mean}hits {row['hits']:.2f}, took {row['wall_s']:.0f} s"
    )
    return row


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--systems", nargs="+", default=[DIRECT, *GATES, *POLICIES])
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--json", type=Path, help="where the rows go, one for each run")
    parser.add_argument("--show", type=Path, nargs="+", help="show rows of runs before, together")
    options = parser.parse_args()
    if options.show:
        report([row for path in options.show for row in json.loads(path.read_text("utf-8"))])
        return
    loads, seeds = (QUICK, [1, 2]) if options.quick else (options.loads, options.seeds)
    jobs = [
        (load, system, seed)
        for load in loads
        for seed in seeds
        for system in options.systems
        if system not in GATES or LOADS[load].is_saturating
    ]
    rows: list[Row] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for row in pool.map(_job, jobs):
            rows.append(row)
            if options.json:  # after each run, so that an interrupted benchmark loses none
                options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    report(rows)
    write("policies", rows)


if __name__ == "__main__":
    main()
