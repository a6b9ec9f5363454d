"""The parsers of the `aios` commands, as the commands themselves build them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any
from unittest import mock

from aios_core.cli import main


class _Caught(BaseException):
    """Carries the parser that was about to parse."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command by its name, those of installed packages included."""
    root = root_parser()
    found = {}
    for name in sorted(choices_of(root)):
        parser = _parser_used(lambda name=name: main([name]))  # type: ignore[misc]
        found[name] = choices_of(parser).get(name, parser)
        found[name].prog = f"aios {name}"
    return found


def root_parser() -> argparse.ArgumentParser:
    """Return the parser of `aios` itself."""
    return _parser_used(lambda: main([]))


def choices_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the commands, or actions, that a parser chooses between."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            choices: Mapping[str, argparse.ArgumentParser] = action.choices
            return choices
    return {}


def _parser_used(run: Callable[[], Any]) -> argparse.ArgumentParser:
    with _catching():
        try:
            run()
        except _Caught as caught:
            return caught.parser
    raise AssertionError("the command parsed nothing")


@contextmanager
def _catching() -> Iterator[None]:
    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Caught(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
    ):
        yield


def installed_commands() -> frozenset[str]:
    """Return the names of the commands that installed packages bring."""
    return frozenset(entry.name for entry in entry_points(group="aios.commands"))
