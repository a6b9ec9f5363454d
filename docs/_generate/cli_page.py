"""`reference/cli.md`: the arguments of every command, from its parser."""

from __future__ import annotations

import argparse
from functools import cache

from parsers import choices_of, command_parsers, root_parser
from text import code, table


@cache
def _parsers() -> dict[str, argparse.ArgumentParser]:
    return command_parsers()


def commands() -> str:
    """Return a table of all commands."""
    helps = {
        action.dest: action.help or ""
        for choice in root_parser()._actions  # noqa: SLF001 - argparse has no public way
        if isinstance(choice, argparse._SubParsersAction)  # noqa: SLF001
        for action in choice._choices_actions  # noqa: SLF001
    }
    rows = [
        (f"[`aios {name}`](#aios-{name})", _sentence(helps.get(name, ""))) for name in _parsers()
    ]
    return table(("Command", "What it does"), rows)


def arguments(name: str) -> str:
    """Return the usage and the arguments of a command, action by action."""
    return "\n\n".join(_described(f"aios {name}", _parsers()[name]))


def _described(prog: str, parser: argparse.ArgumentParser) -> list[str]:
    actions = choices_of(parser)
    rows = [_row(action) for action in parser._actions if _is_shown(action)]  # noqa: SLF001
    parts = []
    if rows:
        parts.append(f"Arguments of `{prog}`:")
        parts.append(table(("Argument", "Meaning", "Default"), rows))
    for name, action in actions.items():
        parts += _described(f"{prog} {name}", action)
    return parts


def _is_shown(action: argparse.Action) -> bool:
    is_help = isinstance(action, argparse._HelpAction)  # noqa: SLF001
    is_choice = isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    return not (is_help or is_choice or action.help == argparse.SUPPRESS)


def _row(action: argparse.Action) -> tuple[str, str, str]:
    value = action.metavar or (
        "" if action.nargs == 0 else "|".join(map(str, action.choices or ())) or action.dest.upper()
    )
    shown = value if isinstance(value, str) else " ".join(value)
    names = [f"{name} {shown}".strip() for name in action.option_strings] or [shown]
    note = _sentence((action.help or "") % {"default": action.default, "prog": "aios"})
    if action.choices and action.metavar:
        note = f"{note} One of {', '.join(code(one) for one in action.choices)}."
    if action.required and action.option_strings:
        note = f"Required. {note}"
    has_default = action.default not in (None, False, "", [], (), argparse.SUPPRESS)
    return ", ".join(map(code, names)), note, code(action.default) if has_default else ""


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:] if text[:1].islower() and text[1:2] != "`" else text
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
