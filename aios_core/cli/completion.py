"""`aios completion`: a script with which a shell completes commands, options and files.

shtab writes it from the parsers, so it knows what they know. Nothing of AIOS runs when a person
presses the tab key; the script is written again after an upgrade.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any, Final

log = logging.getLogger(__name__)

SHELLS: Final = ("bash", "zsh", "fish")

# What an option or argument with this placeholder names.
_PATHS: Final = {"FILE": "FILE", "SCRIPT": "FILE", "SOURCE": "FILE", "DIR": "DIRECTORY"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Print a script with which a shell completes commands, options and files. "
        'For bash: eval "$(aios completion bash)" in ~/.bashrc.'
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(call=_completion)


def _completion(options: argparse.Namespace) -> int:
    print(completion_script(options.shell))
    return 0


def completion_script(shell: str) -> str:
    """Return the script for a shell of `SHELLS`, for all commands that are installed."""
    import shtab  # noqa: PLC0415 - no other command needs it

    from aios_core.cli import COMMANDS, installed_commands, parser_of  # noqa: PLC0415 - imports us

    installed = installed_commands()
    parser, _ = parser_of(tuple(COMMANDS), installed, _offered(installed))
    _name_paths(parser, vars(shtab))
    return str(shtab.complete(parser, shell))


def _offered(installed: Mapping[str, EntryPoint]) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers that modules of installed commands offer as a function `parser`."""
    from aios_core.untrusted.third_party import describe_on_worker  # noqa: PLC0415 - if needed

    offered = {}
    for name, entry in installed.items():
        try:
            parser = import_module(entry.module).parser()
        except Exception as exc:  # noqa: BLE001 - another package's module may raise anything
            log.debug("aios %s completes no options: %s", name, describe_on_worker(exc))
            continue
        if isinstance(parser, argparse.ArgumentParser):
            offered[name] = parser
    return offered


def _name_paths(parser: argparse.ArgumentParser, known: dict[str, Any]) -> None:
    """Mark the options and arguments that name files or directories, as shtab wants it."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                _name_paths(command, known)
        elif kind := _PATHS.get(str(action.metavar)):
            action.complete = known[kind]  # type: ignore[attr-defined]
