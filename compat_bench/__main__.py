"""`python -m compat_bench`: the same agents of every framework, natively and on the kernel.

Writes results.json, results.md and results.html. Ctrl-C ends it cleanly: what was
complete by then is shown and written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from aios_core import __version__
from aios_core.scheduler import POLICIES
from compat_bench.drivers import DRIVERS, Driver, load_driver
from compat_bench.page import page
from compat_bench.records import Results
from compat_bench.runner import Plan, Runner
from compat_bench.sources import Models
from compat_bench.tables import markdown, tables
from compat_bench.tasks import KINDS, check_kinds, make_tasks

INTERRUPTED: Final = 130
TINY_NOTE: Final = (
    "tiny is a test instrument: equal answers, times and fairness mean something; "
    "how many tasks are right says what two million parameters can do, not what AIOS can"
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        check_kinds(options.tasks)
    except ValueError as exc:
        parser.error(str(exc))
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    logging.disable(logging.WARNING)
    os.environ.setdefault("AIOS_QUIET", "1")
    results = Results()
    drivers = _drivers(options.frameworks, results, console)
    if not drivers:
        console.print("[red]No framework can be run; see above.[/]")
        return 1
    tasks = make_tasks(options.tasks, options.each, options.seed)
    results.about = {
        "model": options.core or f"tiny ({TINY_NOTE})",
        "policy": options.policy,
        "tasks of a kind": options.each,
        "seed": options.seed,
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "AIOS": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    agents = tuple(options.agents)
    plan = Plan(tuple(drivers), tuple(tasks), agents, options.policy, options.calls, options.mixed)
    status = _run(plan, Models(options.core), results, console)
    _show(results, console)
    _write(results, Path(options.out), console)
    return status


def _run(plan: Plan, models: Models, results: Results, console: Console) -> int:
    columns = (
        TextColumn("{task.description:<52}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=plan.num_steps())
        runner = Runner(
            plan,
            models,
            results,
            tell=lambda text: progress.update(bar, description=text[:52]),
            advance=lambda: progress.advance(bar),
        )
        try:
            asyncio.run(runner.run())
        except KeyboardInterrupt:
            console.print("[yellow]Interrupted; this is what was complete:[/]")
            return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compat_bench",
        description="The same agents of every framework, natively and on the kernel.",
    )
    parser.add_argument(
        "--frameworks",
        nargs="+",
        choices=tuple(DRIVERS),
        default=tuple(DRIVERS),
        help="which (all)",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=tuple(KINDS),
        metavar="KIND",
        help=f"kinds of task, of {', '.join(map(repr, KINDS))} (all)",
    )
    parser.add_argument("--each", type=_count, default=5, help="tasks of each kind (5)")
    parser.add_argument(
        "--agents", type=_count, nargs="*", default=(1, 16, 64), help="how many at once (1 16 64)"
    )
    parser.add_argument(
        "--mixed", type=int, default=8, help="agents of each in the mixed stage (8)"
    )
    parser.add_argument(
        "--calls", type=_count, default=200, help="calls of the overhead stage (200)"
    )
    parser.add_argument("--policy", choices=tuple(POLICIES), default="fair", help="(fair)")
    parser.add_argument(
        "--core", metavar="MODEL", help="a model's directory or hub name, instead of tiny"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the tasks (1)")
    parser.add_argument("--out", default="out/compat", metavar="DIR", help="(out/compat)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: 1 and above")
    return number


def _drivers(names: Sequence[str], results: Results, console: Console) -> list[Driver]:
    drivers = []
    for name in names:
        try:
            drivers.append(load_driver(name))
        except ImportError as exc:
            results.skipped[name] = str(exc)
            console.print(f"[yellow]{name} is skipped:[/] {exc}")
    return drivers


def _show(results: Results, console: Console) -> None:
    for table in tables(results):
        shown = RichTable(title=table.title, title_justify="left", caption=table.note)
        shown.caption_justify = "left"
        for position, name in enumerate(table.columns):
            shown.add_column(name, justify="right" if position else "left")
        for cells in table.rows:
            shown.add_row(*cells)
        console.print(shown)
    failures = list(
        dict.fromkeys((r.framework, r.system, r.error) for r in results.tasks if r.error)
    )
    for framework, system, error in failures[:8]:
        console.print(f"[red]{framework}, {system}:[/] {error}", highlight=False)


def _write(results: Results, out: Path, console: Console) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "results.json": json.dumps(results.to_dict(), indent=1),
        "results.md": "\n".join(markdown(results)) + "\n",
        "results.html": page(results),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    console.print(f"Written: {', '.join(str(out / name) for name in files)}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
