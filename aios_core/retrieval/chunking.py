"""Cut texts into chunks, each of which gets a vector. Pure.

A chunk ends where a reader would pause: at a paragraph, a line, a sentence or a word. It
starts with the end of the chunk before, so that a phrase that spans a cut is in one chunk.
Texts with equal starts are cut at equal places, so that appending changes only the last
chunks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PAUSES: Final = ("\n\n", "\n", ". ", " ")  # the best first
_BLANK = re.compile(r"\s")
_MAX_INVALID: Final = 0.1  # of the characters; data with more invalid ones is not text


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text; it starts at character `start` of the text."""

    start: int
    text: str


def chunk_text(text: str, size: int, overlap: int) -> list[Chunk]:
    """Cut a text into chunks that together contain every character but white space.

    Args:
        text: the whole text.
        size: the maximum length of a chunk, in characters.
        overlap: how much of the chunk before a chunk repeats at most; at most half of `size`.
    """
    chunks, start = [], 0
    while start < len(text):
        end = _end(text, start, size)
        if part := text[start:end].rstrip():
            chunks.append(Chunk(start, part))
        if end == len(text):
            break
        start = _start(text, end - overlap, end)
    return chunks


def decode_text(data: bytes, max_chars: int) -> str | None:
    """Decode up to `max_chars` characters of a file as UTF-8; None if it is not a text file."""
    head = data[: max_chars * 4]  # a character has at most 4 bytes
    if b"\0" in head:
        return None
    text = head.decode("utf-8", "replace")[:max_chars]
    return None if text.count("\ufffd") > _MAX_INVALID * len(text) else text


def _end(text: str, start: int, size: int) -> int:
    """Return the end of a chunk: after the best pause in the last quarter of its size."""
    limit = start + size
    if limit >= len(text):
        return len(text)
    earliest = start + size * 3 // 4
    for pause in _PAUSES:
        if (place := text.rfind(pause, earliest, limit)) >= 0:
            return place + len(pause)
    return limit


def _start(text: str, earliest: int, end: int) -> int:
    """Return the start of the first word at or after `earliest`, or `earliest` without any."""
    if earliest >= end:
        return end
    blank = _BLANK.search(text, earliest - 1, end)
    return blank.end() if blank and blank.end() < end else earliest
