"""The traveler's screen: plain lines that fit a terminal of 60 columns as well as one of 80."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

WIDEST = 80
LABEL = 10
MOST_LINES = 10  # of one thing; a model may write pages


def width() -> int:
    """Columns to fill."""
    return max(40, min(WIDEST, shutil.get_terminal_size().columns))


def title(text: str, note: str) -> None:
    """Print the first lines of the program."""
    print(_bold(text))
    for line in textwrap.wrap(note, width()):
        print(_dim(line))


def step(number: int, name: str, who: str) -> None:
    """Print the heading of a step."""
    print(f"\n{_bold(f'{number}  {name}')}  {_dim(who)}")


def line(label: str, text: object) -> None:
    """Print one thing that happened, with who did it in front."""
    room = width() - 3 - LABEL
    first, *rest = [
        piece for part in str(text).splitlines() for piece in textwrap.wrap(part, room) or [""]
    ] or [""]
    print(f"   {_dim(label.ljust(LABEL))}{first}")
    for piece in rest if len(rest) < MOST_LINES else [*rest[: MOST_LINES - 2], "..."]:
        print(" " * (3 + LABEL) + piece)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a small table: names on the left, numbers on the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for number, row in enumerate((header, *rows)):
        first, *rest = row
        cells = [cell.rjust(wide) for cell, wide in zip(rest, widths[1:], strict=True)]
        text = "   " + "   ".join([first.ljust(widths[0]), *cells])
        print(_dim(text) if not number else text)


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if _has_styles() else text


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if _has_styles() else text


def _has_styles() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
