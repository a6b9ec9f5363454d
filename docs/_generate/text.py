"""Markdown from plain values, and first sentences of docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: object) -> str:
    """Return a text as inline code; nothing stays nothing."""
    return f"`{text}`" if str(text) else ""


def first_sentence(thing: object) -> str:
    """Return the first sentence of a docstring, without one of a base class."""
    doc = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    paragraph = " ".join(doc.split("\n\n", 1)[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]
    return sentence.replace("``", "`")


def paragraph_of(thing: object) -> str:
    """Return the first paragraph of a docstring, on one line."""
    doc = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    return " ".join(doc.split("\n\n", 1)[0].split()).replace("``", "`")
