"""Print JSON for programs, and untrusted text without what a terminal would obey."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import Any

from aios_core.redaction import visible


def print_json(value: Any) -> None:
    """Print a value as JSON, indented, in ASCII: nothing in it is obeyed by a terminal."""
    print(json.dumps(value, indent=2))


def visible_line(text: str) -> str:
    """Return a text in one line, with nothing in it that a terminal would obey."""
    return visible_lines(" ".join(text.split()))


def visible_lines(text: str) -> str:
    """Return the lines of a text, with nothing in them that a terminal would obey."""
    return "\n".join(visible(line.expandtabs()) for line in text.split("\n"))


def print_wrapped(text: str) -> None:
    """Print a sentence, wrapped between words on a terminal; as one line elsewhere."""
    if sys.stdout.isatty():
        text = textwrap.fill(text, shutil.get_terminal_size().columns, break_on_hyphens=False)
    print(text)
