"""The `aios` command and its subcommands.

Each command is a module in this folder (`run`, `doctor`, `tools`, `access`, `approvals`, `audit`,
`state`, `completion`) with a `configure` that adds its options to a parser; `COMMANDS` names them.
Only the module of the command that runs is imported. The `*_checks` modules are the checks of
`aios doctor` and `aios tools check`; the others are shared by several commands. Installed
packages add commands by the entry point group `aios.commands` (name -> ``module:main``, called
with its arguments, returns the exit status).

Exit status: that of the script or command; 1 if something failed, in one line on
standard error (``AIOS_DEBUG=1``: with its traceback); 2 for a wrong command line;
130 for Ctrl-C; 141 if the reader of its output has closed it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NoReturn

from aios_core import __version__
from aios_core.cli.interruption import (
    SOON_S,
    end_soon,
    own_process,
    prompt_interruption,
    report_interruption,
)
from aios_core.distribution import install_from_checkout

_INSTALLED_SOON_S: Final = 10.0  # an installed command may have results to write
UNREAD: Final = 141  # the status that a shell gives a command that SIGPIPE ended

# name -> what it does; the module of that name in this folder takes its options and runs it
COMMANDS: Final[Mapping[str, str]] = {
    "run": "run a script, module or notebook with its LLM calls on the kernel",
    "doctor": "see what is installed, which cores answer, and what to fix",
    "access": "explain who may do what, and why",
    "approvals": "list and answer calls that wait for an approval",
    "audit": "verify or read the audit trail",
    "state": "check a state directory, or accept an incomplete one",
    "tools": "list, show, run and check tools",
    "completion": "complete commands and options in bash, zsh or fish",
}

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
        sys.stdout.flush()  # here, where a closed pipe is handled
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return UNREAD
    except KeyboardInterrupt:
        end_soon()
        return report_interruption()
    except Exception as exc:
        from aios_core.cli.failures import explain, is_debugging  # noqa: PLC0415 - if needed

        failed = None if is_debugging() else explain(exc)
        if failed is None:
            raise
        return failed
    return status


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    # Looking for packages takes longer than all the rest of `aios --version`.
    needs_installed = name not in COMMANDS and name != "--version"
    installed = installed_commands() if needs_installed else {}
    if name in installed:
        return _run_installed(installed[name], arguments[1:])
    if name in ELSEWHERE:
        print(f"aios: {_how_to_get(name)}", file=sys.stderr)
        return 1
    # What Ctrl-C does in a script, and for how long, is the script's business.
    with prompt_interruption(None if name == "run" else SOON_S):
        return _run_own(arguments, installed)


def _run_own(arguments: list[str], installed: Mapping[str, EntryPoint]) -> int:
    parser, commands = parser_of(arguments[:1], installed)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # with the usage of the command that does not know them
        _refuse_unknown(commands.get(options.command, parser), unknown)
    if options.command is None:
        parser.print_help()
        return 2
    return int(options.call(options))


def _refuse_unknown(command: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with the usage of the command, and with the option that was probably meant."""
    from aios_core.suggestions import suggest  # noqa: PLC0415 - if needed

    known = re.findall(r"--[\w-]+", command.format_usage())
    hint = f"; {phrase}" if (phrase := suggest(unknown[0].partition("=")[0], known)) else ""
    command.error(f"unknown option: {' '.join(unknown)}{hint}")


def _run_installed(entry: EntryPoint, arguments: list[str]) -> int:
    with prompt_interruption(_INSTALLED_SOON_S):
        try:
            command = entry.load()
        except ImportError as exc:
            from aios_core.errors import BackendError  # noqa: PLC0415 - if needed

            owner = entry.dist.name if entry.dist else entry.value
            raise BackendError(f"aios {entry.name} of {owner} cannot be loaded: {exc}") from exc
        return int(command(arguments) or 0)


class _Parser(argparse.ArgumentParser):
    """A parser of the command line or of a command, with names and summaries in two columns."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("allow_abbrev", False)  # a script's `--state` must not mean another
        super().__init__(**settings)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=26, **settings)
        self._action_max_length = len("    completion")  # argparse forgets to count the indent


def installed_commands() -> dict[str, EntryPoint]:
    """Return the commands that installed packages bring, by name; none replaces one of ours."""
    found = entry_points(group="aios.commands")
    return {entry.name: entry for entry in found if entry.name not in COMMANDS}


def parser_of(
    wanted: Sequence[str],
    installed: Mapping[str, EntryPoint],
    options: Mapping[str, argparse.ArgumentParser] | None = None,
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and those of the commands by name.

    Args:
        wanted: the commands to add with their options; the others are added by name alone.
        installed: the commands of other packages, which parse their options themselves.
        options: the parsers of those that offer one, for completion.
    """
    parser: argparse.ArgumentParser = _Parser(
        prog="aios",
        description="An operating system for LLM agents.",
        epilog="See `aios COMMAND --help` for its options. The configuration is in aios.toml.",
    )
    parser.add_argument("--version", action="version", version=f"aios {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in wanted:
            import_module(f"{__name__}.{name}").configure(command)
    for name in sorted(installed.keys() | ELSEWHERE.keys()):
        parents = [options[name]] if options and name in options else []
        commands.add_parser(name, help=_summary(name, installed), add_help=False, parents=parents)
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
