"""Options that several commands take, and what they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aios_core.config import KernelConfig
from aios_core.errors import InvalidRequest


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, the configuration of the command."""
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: ./aios.toml)")


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--state-dir``, for commands that look into the state directory."""
    add_config(parser)
    parser.add_argument(
        "--state-dir", metavar="DIR", help="the state directory (default: state.directory)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, for commands that print a table."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def existing(directory: str | Path) -> Path:
    """Return the path of a directory. Raises `InvalidRequest` if it is not there."""
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise InvalidRequest(f"there is no state directory {path}")
    return path


def state_opener(config: KernelConfig, directory: str | None) -> Any:
    """Return what opens the state directory of a configuration, or another one."""
    from aios_core.state import StateOpener, read_key  # noqa: PLC0415 - if needed

    where = directory or config.state.path()
    return StateOpener(where, lambda: read_key(config.state.encryption_key))
