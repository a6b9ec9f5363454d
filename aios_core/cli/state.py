"""`aios state`: check or accept a state directory that a kernel refuses."""

from __future__ import annotations

import argparse
from pathlib import Path

from aios_core.cli.options import add_json, add_state
from aios_core.cli.printing import print_json
from aios_core.cli.progress import progress
from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest, StateError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    check = actions.add_parser(
        "check",
        help="check whether a kernel would open it",
        description="Open the state directory as a kernel does. The exit status is 1 if it fails.",
    )
    add_state(check)
    add_json(check)
    check.set_defaults(call=_check)
    accept = actions.add_parser(
        "accept",
        help="accept that something is missing; nothing is deleted",
        description="Make the next kernel continue with what is in the state directory. What does "
        "not fit is moved to set-aside/ in it. Run it when there is no backup to restore.",
    )
    add_state(accept)
    add_json(accept)
    accept.set_defaults(call=_accept)


def _check(options: argparse.Namespace) -> int:
    from aios_core.access.audit.record import SCHEMA  # noqa: PLC0415 - if needed
    from aios_core.access.audit.trail import find_gap  # noqa: PLC0415 - if needed
    from aios_core.state import State, read_key  # noqa: PLC0415 - if needed

    config, directory = _directory(options)
    with progress(f"checking {directory}"):
        state = State.open(directory, key=read_key(config.state.encryption_key))
        try:
            state.database.migrate("audit", SCHEMA)
            gap = find_gap(state)
        finally:
            state.close()
    if options.json:
        print_json({"directory": str(directory), "complete": gap is None, "fault": gap})
        return int(gap is not None)
    print(f"{directory} is complete" if gap is None else f"{directory}: the audit trail: {gap}")
    return int(gap is not None)


def _accept(options: argparse.Namespace) -> int:
    from aios_core.state.acceptance import accept  # noqa: PLC0415 - if needed

    _, directory = _directory(options)
    with progress(f"accepting {directory}"):
        changes = accept(directory)
    if options.json:
        print_json({"directory": str(directory), "changes": list(changes)})
        return 0
    for line in changes or ["there is nothing to accept: the directory is empty"]:
        print(line)
    return 0


def _directory(options: argparse.Namespace) -> tuple[KernelConfig, Path]:
    config = KernelConfig.load(options.config)
    directory = Path(options.state_dir or config.state.path()).expanduser()
    if str(directory) == ":memory:":
        raise InvalidRequest(
            "state.directory: got ':memory:', which keeps nothing; allowed: a path"
        )
    if not directory.is_dir():
        raise StateError(f"there is no state directory {directory}; allowed: one that exists")
    return config, directory
