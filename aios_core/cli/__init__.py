"""The `aios` command.

Commands of our own are here; installed packages add theirs by the entry point
group `aios.commands` (name -> ``module:main``, called with its arguments, returns
the exit status). Nothing heavy is imported before a command needs it.

Exit status: what a script or command says; 1 if something failed, in one line on
standard error (``AIOS_DEBUG=1``: with its traceback); 2 for a wrong command line;
130 for Ctrl-C; 141 if nobody reads its output any more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import aios_core
from aios_core.cli import access, doctor, run, state, tools
from aios_core.cli.failures import is_debugging, report
from aios_core.cli.interruption import (
    SOON_S,
    end_soon,
    own_process,
    prompt_interruption,
    report_interruption,
)
from aios_core.distribution import install_from_checkout
from aios_core.errors import BackendError, KernelError

_INSTALLED_SOON_S: Final = 10.0  # an installed command may have results to write
UNREAD: Final = 141  # what a shell says of a command that SIGPIPE ended

# name -> the distribution that brings it, and what it does
ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("langchain-aios", "watch LangChain agents, natively and under each policy"),
}


def run_command() -> int:
    """Run the command that this process was started for. Returns its exit status."""
    own_process()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # here, where a closed pipe is nobody's fault
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return UNREAD
    except KernelError as exc:
        if is_debugging():
            raise
        return report(exc)
    except KeyboardInterrupt:
        end_soon()
        return report_interruption()
    return status


def _dispatch(arguments: list[str]) -> int:
    installed = {entry.name: entry for entry in entry_points(group="aios.commands")}
    name = arguments[0] if arguments else ""
    if name in installed:
        return _run_installed(installed[name], arguments[1:])
    if name in ELSEWHERE:
        print(f"aios: {_how_to_get(name)}", file=sys.stderr)
        return 1
    parser, commands = _parser(installed)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # said with the usage of the command that does not know them
        commands.get(options.command, parser).error(f"unknown option: {' '.join(unknown)}")
    if options.command is None:
        parser.print_help()
        return 2
    # What Ctrl-C does in a script, and for how long, is the script's business.
    with prompt_interruption(None if options.command == "run" else SOON_S):
        return int(options.call(options))


def _run_installed(entry: EntryPoint, arguments: list[str]) -> int:
    try:
        command = entry.load()
    except ImportError as exc:
        owner = entry.dist.name if entry.dist else entry.value
        raise BackendError(f"aios {entry.name} of {owner} cannot be loaded: {exc}") from exc
    with prompt_interruption(_INSTALLED_SOON_S):
        return int(command(arguments) or 0)


def _parser(
    installed: Mapping[str, EntryPoint],
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and those of the commands by name."""
    parser = argparse.ArgumentParser(
        prog="aios",
        description="An operating system for LLM agents.",
        epilog="`aios COMMAND --help` says more. The configuration is in aios.toml.",
    )
    parser.add_argument("--version", action="version", version=f"aios {aios_core.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run.add_parser(commands)
    doctor.add_parser(commands)
    access.add_parsers(commands)
    state.add_parser(commands)
    tools.add_parser(commands)
    for name in sorted(installed.keys() | ELSEWHERE.keys()):
        commands.add_parser(name, help=_summary(name, installed), add_help=False)
    return parser, commands.choices


def _summary(name: str, installed: Mapping[str, EntryPoint]) -> str:
    if name not in installed:
        return _how_to_get(name)
    if name in ELSEWHERE:
        return ELSEWHERE[name][1]
    owner = installed[name].dist
    return f"from {owner.name}" if owner else installed[name].value


def _how_to_get(name: str) -> str:
    distribution = ELSEWHERE[name][0]
    return f"`aios {name}` comes with {distribution}: {install_from_checkout(distribution)}"
