"""`aios approvals`: answer a kernel that waits, from another process."""

from __future__ import annotations

import argparse
import getpass
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from aios_core.cli.options import add_json, add_state, existing
from aios_core.cli.printing import print_json
from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest

if TYPE_CHECKING:
    from aios_core.access.approvals.files import ApprovalFiles


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    add_state(parser)
    add_json(parser)
    parser.set_defaults(call=_list)
    listing = actions.add_parser("list", help="list what waits (the default action)")
    add_state(listing)
    add_json(listing)
    listing.set_defaults(call=_list)
    for verb, is_approved in (("approve", True), ("deny", False)):
        answer = actions.add_parser(verb, help=f"{verb} one of them")
        add_state(answer)
        answer.add_argument(
            "id", metavar="ID", help="the identifier of the request, or its first characters"
        )
        answer.add_argument("--reason", default="", metavar="TEXT", help="for the agent that asked")
        answer.set_defaults(call=_answer, is_approved=is_approved)


def _list(options: argparse.Namespace) -> int:
    approval_files = _approval_files(options)
    waiting = approval_files.waiting(time.time()) if approval_files else []
    if options.json:
        print_json([asdict(request) for request in waiting])
        return 0
    for request in waiting:
        left = max(0.0, request.expires_at - time.time())
        print(f"{request.id}  {request}\n    {request.why}; ends in {left:.0f} s")
    if not waiting:
        print("nothing waits for an approval")
    return 0


def _answer(options: argparse.Namespace) -> int:
    from aios_core.access import ApprovalAnswer  # noqa: PLC0415 - if needed

    approval_files = _approval_files(options)
    if approval_files is None:
        raise InvalidRequest("nothing waits for an approval")
    request = approval_files.find(options.id, time.time())
    answer = ApprovalAnswer(options.is_approved, getpass.getuser(), options.reason)
    approval_files.answer(request, answer)
    print(f"{'approved' if options.is_approved else 'denied'}: {request}")
    return 0


def _approval_files(options: argparse.Namespace) -> ApprovalFiles | None:
    """The approvals of the state directory; None if there are none yet."""
    from aios_core.access.approvals.files import ApprovalFiles  # noqa: PLC0415 - if needed
    from aios_core.state import cipher_for, read_key  # noqa: PLC0415 - if needed

    config = KernelConfig.load(options.config)
    where = Path(config.state.path()).expanduser()  # perhaps no kernel has made it yet
    directory = existing(options.state_dir) if options.state_dir else where
    approval_files = ApprovalFiles(directory, cipher_for(read_key(config.state.encryption_key)))
    return approval_files if approval_files.directory.is_dir() else None
