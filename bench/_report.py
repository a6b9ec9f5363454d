"""Quantiles, confidence intervals, tables and rows on disk, for all benchmarks."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

OUT = Path(__file__).resolve().parent.parent / "out" / "bench"

# Student's t for a two-sided 95 % interval, by degrees of freedom; beyond, the normal's.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark, for those that add options."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="smaller, in seconds; for a first look"
    )
    return parser


def arguments(doc: str | None) -> argparse.Namespace:
    """The command line of a benchmark."""
    return make_parser(doc).parse_args()


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def mean_ci95(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % confidence interval (0 for a single value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    t = _T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.96
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 if all are equal, 1/n if one has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def show(title: str, columns: Mapping[str, str], rows: Sequence[Row], caption: str = "") -> None:
    """Print rows as a table. `columns` gives each heading its format, such as "{mean_s:.1f} s"."""
    table = Table(
        title=title, caption=caption or None, title_justify="left", caption_justify="left"
    )
    for position, heading in enumerate(columns):
        table.add_column(heading, justify="right" if position else "left")
    for row in rows:
        table.add_row(*(_cell(template, row) for template in columns.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)
    console.print()


def write(name: str, rows: Sequence[Row]) -> None:
    """Write rows to out/bench/<name>.json."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(list(rows), indent=2) + "\n")
    print(f"{len(rows)} rows in {path.relative_to(OUT.parent.parent)}")


def _cell(template: str, row: Row) -> str:
    """A formatted cell; a dash where the row has no value."""
    try:
        return template.format_map(row)
    except (KeyError, TypeError, ValueError):
        return "-"
