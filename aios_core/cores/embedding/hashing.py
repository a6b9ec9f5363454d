"""Vectors without a model: hash the words of a text and their parts to positions.

This is the default, because it needs no download, no library and no GPU, and gives equal
vectors on every machine. It measures *lexical* similarity: texts are near each other if
they share words, pairs of words, stems or spellings ("indexing" and "indexes", "colour"
and "color"). It does not cover meaning: "car" and "automobile" are unrelated. To find
answers to questions in other words, configure a model (`docs/how-to/search-by-meaning.md`).

The method is "feature hashing" (Weinberger et al., 2009): each feature adds its weight,
with a sign, at a position given by its hash, so that collisions cancel out on average.
Features are words, pairs of adjacent words, and the 3- and 4-grams of each word
(Bojanowski et al., 2017). A feature that occurs n times counts 1 + ln n; English function
words count only if there are no other words. Vectors have length 1.
"""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zlib import crc32

from aios_core.errors import InvalidRequest
from aios_core.retrieval.embedding import Vector

DIMENSIONS: Final = 1_024
VERSION: Final = 1  # increase it with every change that changes a vector

_PAIR_WEIGHT: Final = 0.5
_GRAMS_WEIGHT: Final = 1.0  # of all grams of a word together; as much as the word itself
_MAX_WORD: Final = 40  # characters of a word that are cut into grams; no real word is longer

# Chinese, Japanese and Korean have no spaces between words; each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_FUNCTION_WORDS: Final = frozenset(
    """
    a about all am an and any are as at be been but by can could did do does for from had has
    have he her his how i if in into is it its me my no not of on or our she so such than that
    the their them then there these they this to was we were what when where which who why will
    with would you your
    """.split()  # noqa: SIM905 - a line for each word is not easier to read
)


class HashingEmbedder:
    """An embedder that hashes words. More `dimensions` collide less and cost more."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        if dimensions < 8:
            raise InvalidRequest(f"dimensions: got {dimensions}; allowed: at least 8")
        self._dimensions = dimensions

    def __repr__(self) -> str:
        return f"<HashingEmbedder {self.name}>"

    @property
    def name(self) -> str:
        return f"hashing-{self._dimensions}-v{VERSION}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return the vectors of texts, computed on a worker thread."""
        return await asyncio.to_thread(self._vectors, texts)

    async def close(self) -> None:
        """Do nothing: no resource is held."""

    def _vectors(self, texts: Sequence[str]) -> list[Vector]:
        return [hashed(text, self._dimensions) for text in texts]


def hashed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return the vector of one text; zeros if the text has no word. Pure."""
    counts: Counter[str] = Counter(_words(text))
    sums: dict[int, float] = {}
    for feature, count in counts.items():
        times = 1.0 + math.log(count)
        for place, weight in _places(feature, dimensions):
            sums[place] = sums.get(place, 0.0) + weight * times
    vector = [0.0] * dimensions
    length = math.sqrt(math.fsum(value * value for value in sums.values()))
    if length > 0:
        for place, value in sums.items():
            vector[place] = value / length
    return vector


def _words(text: str) -> Iterator[str]:
    """Yield the content words of a text, and the pairs of adjacent ones, joined by a space."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    content = [word for word in words if word not in _FUNCTION_WORDS] or words
    yield from content
    for first, second in pairwise(content):
        yield f"{first} {second}"


@lru_cache(maxsize=16_384)
def _places(feature: str, dimensions: int) -> tuple[tuple[int, float], ...]:
    """Return the positions and weights of a word or a pair."""
    if " " in feature:
        return (_place(feature, dimensions, _PAIR_WEIGHT),)
    grams = set(_grams(feature[:_MAX_WORD]))
    weight = _GRAMS_WEIGHT / math.sqrt(len(grams)) if grams else 0.0
    return (
        _place(feature, dimensions, 1.0),
        # "#" keeps the gram "car" apart from the word "car".
        *(_place(f"#{gram}", dimensions, weight) for gram in sorted(grams)),
    )


def _grams(word: str) -> Iterator[str]:
    """Yield the 3- and 4-grams of a word with its ends marked: "<ca", "car", "ar>" ..."""
    marked = f"<{word}>"
    for size in (3, 4):
        for start in range(len(marked) - size + 1):
            yield marked[start : start + size]


def _place(feature: str, dimensions: int, weight: float) -> tuple[int, float]:
    """Return a position and a signed weight, equal in every process and on every platform."""
    mixed = crc32(feature.encode("utf-8", "surrogatepass"))
    # CRC is linear; two rounds of multiply and shift (MurmurHash3's finalizer) make it a hash.
    mixed = ((mixed ^ mixed >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    mixed ^= mixed >> 16
    return (mixed >> 1) % dimensions, weight if mixed & 1 else -weight
