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
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from aios_core import __version__
from aios_core.scheduler import POLICIES
from compat_bench.backends import MAX_TOKENS, TINY, Choice, Models
from compat_bench.drivers import DRIVERS, Driver, load_driver
from compat_bench.findings import SERVER_NOTE, TINY_NOTES, findings
from compat_bench.html_page import page
from compat_bench.problems import Problem, read_problems
from compat_bench.records import Results
from compat_bench.runner import Plan, Runner
from compat_bench.tables import grid, markdown, matrix, tables
from compat_bench.tasks import KINDS, check_kinds, make_tasks

INTERRUPTED: Final = 130
OTHER_MAX_TOKENS: Final = 1_024  # of an answer of a model that is not tiny


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.show:
        return _show_again(parser, options)
    problems = _checked(parser, options)
    # With --matrix the table alone goes to the standard output.
    console = Console(stderr=options.matrix)
    if not console.is_terminal:
        console = Console(stderr=options.matrix, width=130)
    _be_quiet()
    results = Results()
    drivers = _drivers(options.frameworks, results, console)
    warnings.simplefilter("ignore")  # again: frameworks set filters as they are imported
    if not drivers:
        console.print("[red]No framework can be run; see above.[/]")
        return 1
    tasks = make_tasks(options.tasks, options.each, options.seed)
    results.about = _about(options)
    if options.core == TINY:
        results.notes += TINY_NOTES
    if not Choice(options.core).is_endpoint:
        results.notes.append(SERVER_NOTE)
    plan = Plan(
        tuple(drivers),
        tuple(tasks),
        tuple(options.agents),
        options.policy,
        options.calls,
        options.mixed,
        tuple(problems),
    )
    default = MAX_TOKENS if options.core == TINY else OTHER_MAX_TOKENS
    choice = Choice(options.core, options.model, options.max_tokens or default)
    status = _run(plan, Models(choice), results, console)
    _show(results, console)
    _write(results, Path(options.out), console)
    if options.matrix:
        print("\n".join(grid(matrix(results))))
    return status


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Problem]:
    """Refuse what cannot be run, before anything is; the problems."""
    try:
        check_kinds(options.tasks)
        problems = read_problems(Path(options.problems)) if options.problems else []
    except (OSError, ValueError) as exc:
        parser.error(str(exc))
    if "://" in options.core and not options.model:
        parser.error("--core is a server; --model has to name the server's model")
    return problems[: options.first or None]


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": f"{options.model} at {options.core}" if options.model else options.core,
        "policy": options.policy,
        "tasks of a kind": options.each,
        "seed": options.seed,
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "AIOS": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _be_quiet() -> None:
    """Silence logs and warnings of frameworks and the kernel, which would hide the progress."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    os.environ.setdefault("AIOS_QUIET", "1")


def _run(plan: Plan, models: Models, results: Results, console: Console) -> int:
    columns = (
        TextColumn("{task.description:<52}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=plan.num_steps())
        display = _StepDisplay(progress, bar, console)
        runner = Runner(plan, models, results, display, lambda: progress.advance(bar))
        try:
            asyncio.run(runner.run())
        except KeyboardInterrupt:
            console.print("[yellow]Interrupted; this is what was complete:[/]")
            return INTERRUPTED
    return 0


class _StepDisplay:
    """Shows the current step next to the progress bar, or one line a step without a terminal."""

    def __init__(self, progress: Progress, bar: Any, console: Console) -> None:
        self._progress = progress
        self._bar = bar
        self._console = console
        self._last = ""

    def __call__(self, text: str) -> None:
        self._progress.update(self._bar, description=text[:52])
        stage = text.rstrip("0123456789 ")
        if stage != self._last and not self._console.is_terminal:
            self._console.print(stage, highlight=False)
        self._last = stage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compat_bench",
        description="The same agents of every framework, natively and on the kernel.",
        epilog="docs/benchmarks/method.md explains the numbers.",
    )
    _add_work(parser.add_argument_group("what is run"))
    _add_model(parser.add_argument_group("what it runs on"))
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--out", default="out/compat", metavar="DIR", help="(out/compat)")
    shown.add_argument(
        "--matrix",
        action="store_true",
        help="print frameworks by capabilities as a Markdown table, and nothing else",
    )
    shown.add_argument(
        "--show", metavar="FILE", help="run nothing; show the results.json of a run before"
    )
    return parser


def _add_work(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--frameworks",
        nargs="+",
        choices=tuple(DRIVERS),
        default=tuple(DRIVERS),
        metavar="NAME",
        help=f"of {', '.join(DRIVERS)} (all)",
    )
    what.add_argument(
        "--tasks",
        nargs="+",
        default=tuple(KINDS),
        metavar="KIND",
        help=f"of {', '.join(map(repr, KINDS))} (all)",
    )
    what.add_argument("--each", type=_count, default=5, metavar="N", help="tasks of each kind (5)")
    what.add_argument("--seed", type=int, default=1, metavar="N", help="of the tasks (1)")
    what.add_argument(
        "--agents",
        type=_count,
        nargs="*",
        default=(1, 16, 64),
        metavar="N",
        help="how many at once (1 16 64); without a number: no such stage",
    )
    what.add_argument(
        "--mixed",
        type=_count_or_none,
        default=8,
        metavar="N",
        help="agents of each framework when all run together (8); 0: no such stage",
    )
    what.add_argument(
        "--calls",
        type=_count_or_none,
        default=200,
        metavar="N",
        help="calls that overhead is measured with (200); 0: it is not",
    )
    what.add_argument(
        "--problems",
        metavar="FILE",
        help="programming problems in HumanEval's form, one JSON object a line; "
        "what the model writes runs in the sandbox",
    )
    what.add_argument("--first", type=_count, metavar="N", help="of the problems (all)")


def _add_model(where: argparse._ArgumentGroup) -> None:
    where.add_argument(
        "--core",
        default=TINY,
        metavar="MODEL",
        help="tiny, a model's directory or hub name, or the base URL of an OpenAI-compatible "
        "server (tiny)",
    )
    where.add_argument("--model", default="", metavar="NAME", help="what that server calls it")
    where.add_argument(
        "--max-tokens",
        type=_count,
        metavar="N",
        help=f"of an answer ({MAX_TOKENS} for tiny, else {OTHER_MAX_TOKENS})",
    )
    where.add_argument("--policy", choices=tuple(POLICIES), default="fair", help="(fair)")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: 1 and above")
    return number


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _show_again(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        raw = json.loads(Path(options.show).read_text(encoding="utf-8"))
        results = Results.from_dict(raw)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        parser.error(f"{options.show}: no results of a run: {exc!r}")
    if options.matrix:
        print("\n".join(grid(matrix(results))))
    else:
        _show(results, Console())
    return 0


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
    failed = [(row.framework, row.system, row.error) for row in results.tasks if row.error]
    failed += [(row.framework, row.system, said) for row in results.loads for said in row.errors]
    failures = list(dict.fromkeys(failed))
    for framework, system, error in failures[:8]:
        console.print(f"[red]{framework}, {system}:[/] {error}", highlight=False)
    for line in (*findings(results), *results.notes):
        console.print(f"- {line}", highlight=False)


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
