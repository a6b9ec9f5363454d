"""`aios doctor`: check the installation and the configuration, and show how to fix problems."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING

from aios_core.cli.options import add_config, add_json
from aios_core.cli.printing import print_json
from aios_core.cli.progress import progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aios_core.cli.findings import Finding

_COLORS = {"ok": "green", "missing": "dim", "warning": "yellow", "error": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Check the installation and the configuration, and call every core once. "
        "The exit status is 1 if something is broken."
    )
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="for the answer of a core (default: 60)",
    )
    parser.set_defaults(call=_doctor)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: seconds above 0")
    return value


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415 - `aios --help` needs none of it

    from aios_core.cli.doctor_checks import examine  # noqa: PLC0415

    console = Console()
    with progress("checking") as begin:

        def check(step: str) -> None:
            begin(f"checking {step}")

        findings = list(examine(options.config, timeout_s=options.timeout, begin=check))
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings, console)
    return int(any(finding.health == "error" for finding in findings))


def _show(findings: Sequence[Finding], console: Console) -> None:
    from rich.rule import Rule  # noqa: PLC0415

    areas = dict.fromkeys(finding.area for finding in findings)  # in the order they came up
    for area in areas:
        found = [finding for finding in findings if finding.area == area]
        console.print(Rule(area, align="left", style="dim"))
        console.print(_table(found, console.width))
    num_errors = sum(finding.health == "error" for finding in findings)
    verdict = f"{num_errors} broken; see above" if num_errors else "Nothing is broken."
    console.print(verdict, highlight=False)


def _table(findings: Sequence[Finding], width: int) -> Table:
    """Build the table: one row a finding, with its name, its status, and a fix if there is one."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 2))
    longest = max(len(finding.name) for finding in findings)
    table.add_column(width=min(longest, width // 3), overflow="fold")
    table.add_column(width=len("warning"), no_wrap=True)
    table.add_column(overflow="fold")  # wraps between words; breaks only what fits on no line
    for finding in findings:
        message = Text(finding.message)
        if finding.fix:
            message.append(f"\n-> {finding.fix}", style="cyan")
        health = Text(finding.health, style=_COLORS[finding.health])
        table.add_row(Text(finding.name), health, message)
    return table
