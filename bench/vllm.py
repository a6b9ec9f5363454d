"""A real vLLM server under agents that need more KV memory than it has: directly and on the kernel.

The same agents call the server with the client of its API, and through a kernel under each
scheduling policy, in turn; the order is reversed for every second seed, and the server's prefix
cache is emptied before each run. Ratios are of one seed's runs, ± is a 95 % confidence interval
over the seeds. The server runs on the CPU with dummy weights: its answers are words without sense,
and its times are those of the work that it does.

`AIOS_VLLM_PYTHON` names the interpreter of an environment with vLLM (`make bench-vllm` makes it).

    python bench/vllm.py [--quick] [--seeds 1 2 3] [--shapes 19M] [--loads saturated] [--json FILE]
    python bench/vllm.py --show FILE FILE ...
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from _report import make_parser, mean_ci95, quantile, show, write
from _vllm_agents import DIRECT, Call, Lived, Load, Plan, live_all, open_system
from _vllm_server import (
    MODEL,
    PYTHON_VARIABLE,
    SHAPES,
    MeasuredServer,
    ServerSettings,
    vllm_python,
    vllm_server,
)

SYSTEMS: Final = (DIRECT, "auto", "fifo", "las", "fair")
LOADS: Final = {
    load.name: load
    for load in (
        Load(
            "saturated", "14 agents that need several times its KV memory", 14, 6, 600, 310, 8, 0.2
        ),
        Load("roomy", "8 agents that all fit", 8, 4, 80, 30, 48, 0.2),
        Load(
            "roomy, no limit", "8 agents that all fit, no max_tokens", 8, 4, 80, 30, 48, 0.2, False
        ),
        Load("saturated, no limit", "14 agents, no max_tokens", 14, 6, 600, 310, 48, 0.2, False),
    )
}
QUICK: Final = Load(
    "quick", "12 agents that need several times its KV memory", 12, 4, 500, 400, 4, 0.1
)
COLUMNS: Final = {
    "system": "{system}",
    "mean": "{mean_s:.1f} s",
    "p50": "{p50_s:.1f}",
    "p99": "{p99_s:.1f}",
    "sooner": "{sooner:.2f} ± {sooner_ci95:.2f}",
    "worst seed": "{sooner_min:.2f}",
    "p99 / direct": "{p99_ratio:.2f} ± {p99_ratio_ci95:.2f}",
    "hits": "{hits:.2f}",
    "prefill / direct": "{prefill_ratio:.2f} ± {prefill_ratio_ci95:.2f}",
    "calls/s": "{calls_per_s:.1f}",
    "slowest call, large / small": "{slowest_large_s:.1f} / {slowest_small_s:.1f}",
}


def run_once(server: MeasuredServer, load: Load, system: str, seed: int) -> dict[str, Any]:
    """Let all agents of a draw live under one system. Returns the row of this run."""
    plans = load.draw(seed, server.settings.window)
    server.empty_prefix_cache()
    before = server.counters()
    lived = asyncio.run(_live(server, load, system, plans))
    after = server.counters()
    spent = {name: after[name] - before[name] for name in after}
    row = {
        "shape": server.settings.shape.name,
        "load": load.name,
        "system": system,
        "seed": seed,
        "kv_tokens": server.settings.kv_tokens,
        **figures(lived),
        "hits": spent["hit"] / max(1.0, spent["queried"]),
        "prefill_tokens": spent["queried"] - spent["hit"],
        "engine_preemptions": spent["preempted"],
        "tools_s": [[turn.tool_s for turn in plan.turns] for plan in plans],
        "starts_at": [plan.starts_at for plan in plans],
        **lived.as_row(),
    }
    print(
        f"{row['shape']}, {load.name}, {system}, seed {seed}: mean {row['mean_s']:.1f} s, "
        f"p99 {row['p99_s']:.1f}, hits {row['hits']:.2f}, prefill {row['prefill_tokens']:.0f}",
        flush=True,
    )
    return row


async def _live(server: MeasuredServer, load: Load, system: str, plans: list[Plan]) -> Lived:
    async with open_system(system, server.base_url, MODEL, load) as opened:
        return await live_all(opened, plans)


def figures(lived: Lived) -> dict[str, float]:
    """The figures of one run, from what its agents saw."""
    sizes = [call.prompt_tokens for call in lived.calls]
    small, large = quantile(sizes, 0.25), quantile(sizes, 0.75)
    return {
        "mean_s": statistics.fmean(lived.turnaround_s),
        "p50_s": quantile(lived.turnaround_s, 0.50),
        "p99_s": quantile(lived.turnaround_s, 0.99),
        "calls_per_s": len(lived.calls) / lived.makespan_s,
        "slowest_large_s": _slowest(lived.calls, large, max(sizes)),
        "slowest_small_s": _slowest(lived.calls, 0, small),
        "demand_tokens": float(_demand(lived.calls)),
    }


def _slowest(calls: Sequence[Call], at_least: float, at_most: float) -> float:
    return max(
        call.ended_at - call.sent_at for call in calls if at_least <= call.prompt_tokens <= at_most
    )


def _demand(calls: Sequence[Call]) -> int:
    """The last contexts of all agents together."""
    last = {call.agent: call.prompt_tokens + call.output_tokens for call in calls}
    return sum(last.values())


def run_all(
    settings: ServerSettings, loads: Sequence[Load], systems: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Run every system under every load with every seed, on one server."""
    rows = []
    with vllm_server(settings) as server:
        _warm_up(server)
        for position, seed in enumerate(seeds):
            for load in loads:
                in_turn = systems if position % 2 == 0 else tuple(reversed(systems))
                rows += [run_once(server, load, system, seed) for system in in_turn]
    return rows


def _warm_up(server: MeasuredServer) -> None:
    """The first calls of a server load what it had left for later."""
    load = Load("warm-up", "", 4, 3, 300, 50, 4, 0.0)
    asyncio.run(_live(server, load, DIRECT, load.draw(0, server.settings.window)))


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each system under each load: means over the seeds, and ratios seed by seed."""
    cells: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["shape"], row["load"], row["system"]), {})[row["seed"]] = row
    return [
        _summary(key, runs, cells.get((key[0], key[1], DIRECT), {})) for key, runs in cells.items()
    ]


def _summary(
    key: tuple[str, str, str],
    runs: Mapping[int, Mapping[str, Any]],
    direct: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    shape, load, system = key
    row: dict[str, Any] = {"shape": shape, "load": load, "system": system, "seeds": len(runs)}
    for name, value in next(iter(runs.values())).items():
        if isinstance(value, float):
            row[name] = statistics.fmean(run[name] for run in runs.values())
    row["demand"] = row["demand_tokens"] / next(iter(runs.values()))["kv_tokens"]
    pairs = [(direct[seed], run) for seed, run in runs.items() if seed in direct]
    if pairs:
        sooner = [theirs["mean_s"] / run["mean_s"] for theirs, run in pairs]
        row["sooner"], row["sooner_ci95"] = mean_ci95(sooner)
        row["sooner_min"] = min(sooner)
        for name, figure in (("p99", "p99_s"), ("prefill", "prefill_tokens")):
            ratios = [run[figure] / theirs[figure] for theirs, run in pairs]
            row[f"{name}_ratio"], row[f"{name}_ratio_ci95"] = mean_ci95(ratios)
    return row


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for each shape and load."""
    summaries = summarise(rows)
    order = {system: position for position, system in enumerate(SYSTEMS)}
    for shape, load in dict.fromkeys((row["shape"], row["load"]) for row in summaries):
        some = [row for row in summaries if (row["shape"], row["load"]) == (shape, load)]
        some.sort(key=lambda row: order.get(row["system"], len(order)))
        about = LOADS.get(load, QUICK).about
        caption = f"{some[0]['seeds']} seeds, demand {some[0]['demand']:.1f} times the KV memory"
        show(f"vLLM, {shape} dummy weights, {load}: {about}", COLUMNS, some, caption)


def _caption() -> str:
    load = os.getloadavg()[0]
    today = dt.datetime.now(tz=dt.UTC).date()
    return f"{today}, {os.cpu_count()} cores, {platform.machine()}, load average {load:.1f}"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["19M", "tiny"])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS)[:3])
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, help="direct, and policies")
    parser.add_argument("--json", type=Path, help="where the rows go, one for each run")
    parser.add_argument("--show", type=Path, nargs="+", help="show rows of runs before, together")
    options = parser.parse_args()
    if options.show:
        report([row for path in options.show for row in json.loads(path.read_text("utf-8"))])
        return
    if vllm_python() is None:
        print(f"{PYTHON_VARIABLE} names no environment with vLLM: skipped (see make bench-vllm)")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    loads = [QUICK] if options.quick else [LOADS[name] for name in options.loads]
    shapes, seeds = (["tiny"], [1]) if options.quick else (options.shapes, options.seeds)
    print(_caption())
    rows = []
    for shape in shapes:
        rows += run_all(ServerSettings(SHAPES[shape]), loads, options.systems, seeds)
        write("vllm", rows)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    print(_caption())
    report(rows)


if __name__ == "__main__":
    main()
