"""The words, names, numbers and paths that dialogues are filled with.

Promises: every atom (a word, a number, the name of a tool) belongs to exactly
one side, training or evaluation, by a checksum of its text; a `Pool` gives only
atoms of its side. About one atom in eight is held out. Every sentence of
the program (how a request is worded, the names of the known tools) is on both.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

HELD_OUT_SHARE: Final = 8  # one atom of so many
_SPLICED: Final = 0.25  # of the words of training: see `Pool._english`
_FRAGMENTS: Final = 0.35  # of these: they have a part of the program's own sentences
_ACCENTS: Final = 0.025  # of the words of training that are not names of tools: "reqüest"
_RARE: Final = 0.4  # of the texts of signs, or of letters beyond ASCII, in training: of any such

# Of training alone. A model that copies loses the place where the same thing stands twice: some
# dialogues use what they have used before, and some atoms are made of one part again and again.
_REPETITIVE: Final = 0.3  # of the dialogues
_AGAIN: Final = (0.04, 0.4)  # of the atoms: one of before; in other dialogues, in repetitive ones
_MONOTONOUS: Final = 0.12  # of the atoms: of few parts

_ONSETS: Final = (
    "b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r",
    "s", "t", "v", "w", "z", "br", "dr", "st", "tr", "sh", "ch",
)  # fmt: skip
_RIMES: Final = ("a", "e", "i", "o", "u", "ai", "or", "an", "en", "il")
_SIGNS: Final = string.ascii_letters + string.digits + "_-./:@#%+=&"
_ACCENTED: Final = tuple("áéíóúäöüßñçøåêîłžš你好世界東京мир")
_ANY_SIGNS: Final = "".join(sign for sign in string.punctuation if sign not in '"\\')
_LATIN: Final = tuple(letter for letter in map(chr, range(0xDF, 0x180)) if letter.islower())
_SCRIPTS: Final = tuple(
    tuple(map(chr, range(first, last + 1)))
    for first, last in (
        (0xA1, 0xAC), (0xC0, 0xFF), (0x100, 0x17F), (0x391, 0x3A1), (0x3B1, 0x3C9), (0x410, 0x44F),
        (0x5D0, 0x5EA), (0x2013, 0x2026), (0x20A0, 0x20BF), (0x3041, 0x3096), (0x30A1, 0x30FA),
        (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F600, 0x1F64F),
    )
)  # fmt: skip


def _listed(name: str) -> tuple[str, ...]:
    text = Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.split())


CITIES: Final = _listed("cities")
PEOPLE: Final = _listed("people")
VERBS: Final = _listed("verbs")
NOUNS: Final = _listed("nouns")


# Words that hold requests together are never what a request is about.
_STEERING: Final = frozenset(
    "and then that is to with under into as in on at by the a an it of for from please use "  # noqa: SIM905
    "called result answer now this do".split()
)


@cache
def words() -> tuple[str, ...]:
    """Common English words, in no order that matters."""
    return tuple(word for word in _listed("words") if word not in _STEERING)


@cache
def fragments() -> tuple[str, ...]:
    """Words, and parts of words, that the program's own sentences have and requests seldom do."""
    return _listed("fragments")


def is_held_out(atom: str) -> bool:
    """Return whether the atom belongs to evaluation. The case of letters makes no difference."""
    return zlib.crc32(atom.lower().encode()) % HELD_OUT_SHARE == 0


class Pool:
    """A seeded source of atoms of one side, and of texts made of them."""

    def __init__(self, seed: int | str, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self._again = 0.0 if held_out else _AGAIN[self.chance(_REPETITIVE)]
        self._known: dict[str, list[str]] = {}

    # --- choices ---------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.random() * len(options))]

    def pick_by_weight(self, options: Sequence[tuple[float, T]]) -> T:
        at = self.rng.random() * sum(weight for weight, _ in options)
        for weight, option in options:
            at -= weight
            if at < 0:
                return option
        return options[-1][1]

    def atom(self, make: Callable[[], str]) -> str:
        """The first of what `make` gives that is on this side."""
        while is_held_out(made := make()) != self.held_out:
            pass
        return made

    def _or_again(self, kind: str, make: Callable[[], str]) -> str:
        """An atom; in training now and then one of this kind that was there before."""
        known = self._known.setdefault(kind, [])
        if known and self._again and self.chance(self._again):
            return self.pick(known)
        known.append(self.atom(make))
        return known[-1]

    def _is_monotonous(self) -> bool:
        return not self.held_out and self.chance(_MONOTONOUS)

    def _is_rare(self) -> bool:
        return not self.held_out and self.chance(_RARE)

    def _of_two(self, make: Callable[[], str], size: int) -> str:
        """`size` parts, joined, of which two are different at most."""
        parts = make(), make()
        return "".join(self.pick(parts) for _ in range(size))

    def _parts(self, options: Sequence[str], size: int) -> str:
        """`size` of them, joined."""
        if self._is_monotonous():
            return self._of_two(lambda: self.pick(options), size)
        return "".join(self.pick(options) for _ in range(size))

    # --- atoms -----------------------------------------------------------------------------------

    def number(self, digits: int = 5) -> str:
        """A whole number of at most `digits` digits, short ones as often as long ones."""
        return self._or_again(f"number of {digits}", lambda: self._number(digits))

    def english(self) -> str:
        return self.atom(self._english)

    def invented(self, most: int = 3) -> str:
        return self.atom(lambda: self._syllables(most))

    def word(self) -> str:
        return self._or_again("word", self._any_word)

    def city(self) -> str:
        if self.chance(0.5):
            return self.atom(lambda: self.pick(CITIES))
        return self.atom(lambda: self._any_word().capitalize())

    def person(self) -> str:
        if self.chance(0.5):
            return self.atom(lambda: self.pick(PEOPLE))
        return self.atom(lambda: self._any_word().capitalize())

    def verb(self) -> str:
        return self.atom(lambda: self.pick(VERBS)) if self.chance(0.6) else self.english()

    def noun(self) -> str:
        return self.atom(lambda: self.pick(NOUNS)) if self.chance(0.6) else self.english()

    def _number(self, digits: int) -> str:
        if self._is_monotonous():
            size = self.rng.randint(1, digits)
            return str(int(self._of_two(lambda: self.pick(string.digits), size)))
        return str(self.rng.randrange(10 ** self.rng.randint(1, digits)))

    def _english(self) -> str:
        """A word; in training now and then one that is made of parts of words.

        These have pieces in places where no whole word has them, so that each piece of
        the tokenizer is copied, not those alone that begin many words.
        """
        if self.held_out or not self.chance(_SPLICED):
            return self.pick(words())
        one, two = self.pick(words()), self.pick(words())
        if self.chance(_FRAGMENTS):
            part = self.pick(fragments())
            if self.chance(0.5):
                return part + self.pick(_RIMES)
            return two[: self.rng.randint(1, 4)] + part
        if self.chance(0.3):
            return one + self.pick(_RIMES)
        return one[: self.rng.randint(1, len(one))] + two[self.rng.randrange(len(two)) :]

    def _any_word(self) -> str:
        kind = self.rng.random()
        if kind < 0.5:
            word = self._english()
            if self.held_out or not self.chance(_ACCENTS):
                return word
            at = self.rng.randrange(len(word))
            return word[:at] + self.pick(_LATIN) + word[at + 1 :]
        if kind < 0.66:
            return self._parts(string.ascii_lowercase, self.rng.randint(2, 8))
        if kind < 0.98:
            return self._syllables(3)
        letters = self.pick(_SCRIPTS) if self._is_rare() else _ACCENTED
        return self._parts(letters, self.rng.randint(1, 3))

    def _syllables(self, most: int) -> str:
        size = self.rng.randint(min(2, most), most)
        if self._is_monotonous():
            return self._of_two(self._syllable, size)
        return "".join(self._syllable() for _ in range(size))

    def _syllable(self) -> str:
        return self.pick(_ONSETS) + self.pick(_RIMES)

    # --- texts, made of atoms --------------------------------------------------------------------

    def text(self, most: int = 6) -> str:
        """One to `most` words, some of them numbers."""
        return " ".join(self._text_word() for _ in range(self.rng.randint(1, most)))

    def _text_word(self) -> str:
        kind = self.rng.random()
        if kind < 0.82:
            return self.word()
        if kind < 0.92:
            return self.number(4)
        return self.word().capitalize() if kind < 0.97 else self.code(2, 7)

    def code(self, least: int = 3, most: int = 9) -> str:
        """Letters, digits and signs in no order."""
        size = self.rng.randint(least, most)
        signs = _SIGNS + _ANY_SIGNS if self._is_rare() else _SIGNS
        return self.atom(lambda: "".join(self.pick(signs) for _ in range(size)))

    def key(self) -> str:
        """Draw a key to store a value under."""
        kind = self.rng.random()
        if kind < 0.35:
            return self.word()
        if kind < 0.55:
            return f"{self.word()}_{self.invented(2)}"
        if kind < 0.75:
            return f"{self.word()}-{self.number(4)}"
        if kind < 0.83:
            return self.invented().upper() + self.number(3)
        return self.code() if kind < 0.88 else self.text(3)

    def path(self) -> str:
        """A file's path, relative or not."""
        folders = "".join(f"{self.word()}/" for _ in range(self.rng.randint(0, 2)))
        ending = self.pick(("txt", "md", "csv", "json", "py", "log"))
        return f"{'/' if self.chance(0.3) else ''}{folders}{self.word()}.{ending}"

    def folder(self) -> str:
        names = "/".join(self.word() for _ in range(self.rng.randint(1, 2)))
        return f"{'/' if self.chance(0.4) else ''}{names}"

    def date(self, day: int = 11) -> str:
        return f"20{self.rng.randint(10, 40)}-0{self.rng.randint(1, 9)}-{day}"

    def identifier(self) -> str:
        """The name of a tool or a parameter."""
        word = self.english() if self.chance(0.6) else self.invented()
        return word if self.chance(0.6) else f"{word}_{self.english()}"
