"""`aios audit`: verify or read the audit trail, also while a kernel writes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aios_core.cli.options import add_json, add_state, existing
from aios_core.cli.printing import print_json
from aios_core.cli.progress import progress
from aios_core.config import KernelConfig

if TYPE_CHECKING:
    from aios_core.access.audit.inspection import Inspection

_SHOWN: Final = 20  # records of the trail, unless a number is given
_UNREADABLE: Final = "not what was written there"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    verify = actions.add_parser(
        "verify",
        help="check for edits, removals, reordering and a truncated end",
        description="Check the whole audit trail. The exit status is 1 if it was tampered with.",
    )
    add_state(verify)
    add_json(verify)
    verify.add_argument(
        "--anchor",
        metavar="FILE",
        help="heads that were kept elsewhere (default: access.audit_anchor)",
    )
    verify.set_defaults(call=_verify)
    show = actions.add_parser("show", help="show the latest records, a line of JSON each")
    add_state(show)
    add_json(show)
    show.add_argument("-n", type=int, default=_SHOWN, metavar="N", help=f"how many ({_SHOWN})")
    show.add_argument("--agent", metavar="IDENTITY", help="only of this agent")
    show.set_defaults(call=_show)


def _verify(options: argparse.Namespace) -> int:
    from aios_core.access.audit.heads import read_anchor  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    anchor = options.anchor or config.access.audit_anchor
    with progress("reading the audit trail"):
        trail = _inspected(config, options.state_dir)
        heads = read_anchor(Path(anchor).expanduser()) if anchor else []
        report = trail.verified(heads)
    faults = list(report.faults)
    if report.num_records and not heads and not trail.heads:
        faults.append("no head vouches for the end of the trail")
    if options.json:
        found = {"records": report.num_records, "faults": faults, "notes": list(report.notes)}
        print_json({"intact": report.is_intact and not faults, **found})
        return int(bool(faults) or not report.is_intact)
    for line in (*faults, *report.notes):
        print(line)
    if report.is_intact and not faults:
        print(f"{report.num_records} records, all as they were written")
    return int(bool(faults) or not report.is_intact)


def _show(options: argparse.Namespace) -> int:
    config = KernelConfig.load(options.config)
    with progress("reading the audit trail"):
        trail = _inspected(config, options.state_dir)
        records = [(row.number, trail.content(row)) for row in trail.rows]
    chosen = [
        (number, record)
        for number, record in records
        if options.agent is None or record is None or record.get("agent") == options.agent
    ]
    shown = [
        {"number": number, **({"fault": _UNREADABLE} if record is None else record)}
        for number, record in (chosen[-options.n :] if options.n > 0 else [])
    ]
    if options.json:
        print_json(shown)
    else:
        for line in shown:
            print(json.dumps(line, ensure_ascii=False))
    return int(any(line.get("fault") == _UNREADABLE for line in shown))


def _inspected(config: KernelConfig, directory: str | None) -> Inspection:
    from aios_core.access.audit.inspection import Inspection  # noqa: PLC0415 - if needed
    from aios_core.state import cipher_for, read_key  # noqa: PLC0415

    cipher = cipher_for(read_key(config.state.encryption_key))
    return Inspection(existing(directory or config.state.path()), cipher)
