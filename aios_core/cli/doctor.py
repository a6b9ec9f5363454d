"""`aios doctor`: what is installed, which cores answer, what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from aios_core.cli.checks import Finding

_COLORS = {"ok": "green", "absent": "dim", "doubtful": "yellow", "broken": "bold red"}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="see what is installed, which cores answer, and what to mend",
        description="Check the installation and the configuration, and call every core once. "
        "The exit status is 1 if something is broken.",
    )
    parser.add_argument("--config", metavar="FILE", help="instead of ./aios.toml")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for the answer of a core (default: 60)",
    )
    parser.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from aios_core.cli.checks import Health, examine  # noqa: PLC0415 - `aios --help` needs none of it

    findings = list(examine(options.config, patience_s=options.patience))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    return int(any(finding.health is Health.BROKEN for finding in findings))


def _show(findings: Sequence[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415 - see above

    console = Console()
    console.print(_table(findings))
    wrong = [finding for finding in findings if finding.health == "broken"]
    console.print(f"{len(wrong)} broken" if wrong else "Nothing is broken.", highlight=False)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title="aios doctor")
    for heading in ("", "what", "", "how it is", "how to mend it"):
        table.add_column(heading, overflow="fold")
    area = ""
    for finding in findings:
        if area and finding.area != area:
            table.add_section()
        table.add_row(
            "" if finding.area == area else finding.area,
            Text(finding.name),
            Text(finding.health, style=_COLORS[finding.health]),
            Text(finding.said),
            Text(finding.mend),
        )
        area = finding.area
    return table
