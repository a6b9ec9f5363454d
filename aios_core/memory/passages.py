"""Texts cut into passages, and which of them lie nearest to a query. Pure.

A passage is what one vector stands for: about a paragraph, cut where the text has a
seam. Nearness is the cosine, by brute force over the passages of one agent: exact, and
for the tens of thousands of passages of a memory as fast as an index. With numpy if it is
installed (imported at the first search), in plain Python otherwise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Final

PASSAGE_CHARS: Final = 800
_SEAMS: Final = ("\n\n", "\n", ". ", " ")  # the best first
_LEAST_PART: Final = 0.5  # of a passage; no seam before that is taken


def passages(text: str) -> Iterator[tuple[int, int]]:
    """Where passages of a text begin and end, in characters; blank ones are left out."""
    start = 0
    while start < len(text):
        stop = _seam(text, start)
        if text[start:stop].strip():
            yield start, stop
        start = stop


def pack_vector(vector: Sequence[float]) -> bytes:
    """32-bit floats, little-endian."""
    return struct.pack(f"<{len(vector)}f", *vector)


def cosines(query: Sequence[float], vectors: Sequence[bytes]) -> list[float]:
    """The cosine of each packed vector with the query; 0 for one of zeros or of another length."""
    try:
        import numpy as np  # noqa: PLC0415 - only if somebody searches, and only if it is there
    except ImportError:
        return [_cosine(query, _unpacked(vector)) for vector in vectors]
    length = 4 * len(query)
    fitting = [vector if len(vector) == length else bytes(length) for vector in vectors]
    matrix = np.frombuffer(b"".join(fitting), "<f4").reshape(len(fitting), len(query))
    asked = np.asarray(query, "<f4")
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(asked)
    products = matrix @ asked
    result: list[float] = np.divide(
        products, norms, out=np.zeros_like(products), where=norms > 0
    ).tolist()
    return result


def _seam(text: str, start: int) -> int:
    end = start + PASSAGE_CHARS
    if end >= len(text):
        return len(text)
    least = start + int(PASSAGE_CHARS * _LEAST_PART)
    for seam in _SEAMS:
        at = text.rfind(seam, least, end)
        if at >= 0:
            return at + len(seam)
    return end


def _unpacked(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other):
        return 0.0
    norm = math.hypot(*one) * math.hypot(*other)
    return sum(map(float.__mul__, map(float, one), other)) / norm if norm else 0.0
