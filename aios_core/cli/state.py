"""`aios state`: check or accept a state directory that a kernel refuses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest, StateError


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "state", help="check a state directory, or accept an incomplete one"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="check whether a kernel would open it",
        description="Open the state directory as a kernel does. The exit status is 1 if it fails.",
    )
    _add_common(check)
    check.set_defaults(call=_check)
    accept = actions.add_parser(
        "accept",
        help="accept that something is missing; nothing is deleted",
        description="Make the next kernel continue with what is in the state directory. What does "
        "not fit is moved to set-aside/ in it. Run it when there is no backup to restore.",
    )
    _add_common(accept)
    accept.set_defaults(call=_accept)


def _check(options: argparse.Namespace) -> int:
    from aios_core.access.record import SCHEMA  # noqa: PLC0415 - if needed
    from aios_core.access.trail import find_gap  # noqa: PLC0415 - if needed
    from aios_core.state import State, read_key  # noqa: PLC0415 - if needed

    config, directory = _directory(options)
    state = State.open(directory, key=read_key(config.state.encryption_key))
    try:
        state.database.migrate("audit", SCHEMA)
        gap = find_gap(state)
    finally:
        state.close()
    print(f"{directory} is complete" if gap is None else f"{directory}: the audit trail: {gap}")
    return int(gap is not None)


def _accept(options: argparse.Namespace) -> int:
    from aios_core.state.acceptance import accept  # noqa: PLC0415 - if needed

    _, directory = _directory(options)
    for line in accept(directory) or ["there is nothing to accept: the directory is empty"]:
        print(line)
    return 0


def _directory(options: argparse.Namespace) -> tuple[KernelConfig, Path]:
    config = KernelConfig.load(options.config)
    directory = Path(options.state or config.state.path()).expanduser()
    if str(directory) == ":memory:":
        raise InvalidRequest(
            "state.directory: got ':memory:', which keeps nothing; allowed: a path"
        )
    if not directory.is_dir():
        raise StateError(f"there is no state directory {directory}; allowed: one that exists")
    return config, directory


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="instead of ./aios.toml")
    parser.add_argument("--state", metavar="DIR", help="instead of state.directory")
