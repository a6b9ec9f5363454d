"""Cut a text into parts that a search can find: pure.

A part ends where a reader would pause (a paragraph, a line, a sentence, a word) and
begins with the end of the part before, so that what straddles a cut is found whole.
Equal beginnings are cut alike: adding to a file changes its last parts only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PAUSES: Final = ("\n\n", "\n", ". ", " ")  # the best first
_BLANK = re.compile(r"\s")
_MAX_FOREIGN: Final = 0.1  # of the characters; with more of them it is no text


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: `text` begins at character `start` of the whole."""

    start: int
    text: str


def cut(text: str, size: int, overlap: int) -> list[Chunk]:
    """Parts of at most `size` characters, each repeating up to `overlap` of the one before.

    Every character that is no white space is in one of them. `overlap` is at most half
    of `size`.
    """
    chunks, start = [], 0
    while start < len(text):
        end = _end(text, start, size)
        if piece := text[start:end].rstrip():
            chunks.append(Chunk(start, piece))
        if end == len(text):
            break
        start = _beginning(text, end - overlap, end)
    return chunks


def readable(data: bytes, max_chars: int) -> str | None:
    """The text of a file, up to `max_chars` characters; None if it is none."""
    head = data[: max_chars * 4]  # bytes of a character, at most
    if b"\0" in head:
        return None
    text = head.decode("utf-8", "replace")[:max_chars]
    return None if text.count("\ufffd") > _MAX_FOREIGN * len(text) else text


def _end(text: str, start: int, size: int) -> int:
    """Behind the last pause in the last quarter of what fits."""
    limit = start + size
    if limit >= len(text):
        return len(text)
    earliest = start + size * 3 // 4
    for pause in _PAUSES:
        if (place := text.rfind(pause, earliest, limit)) >= 0:
            return place + len(pause)
    return limit


def _beginning(text: str, earliest: int, end: int) -> int:
    """The first word that begins at or behind `earliest`; `end` at the latest."""
    if earliest >= end:
        return end
    blank = _BLANK.search(text, earliest - 1, end)
    return blank.end() if blank and blank.end() < end else earliest
