"""What the dialogues are filled with: words, names, numbers, paths.

Promises: every atom (a word, a number, the name of a tool) belongs to exactly
one side, training or evaluation, by a checksum of its text; a `Pool` gives only
atoms of its side. About one atom in eight is held out. Whatever is a sentence of
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

_ONSETS: Final = "b d f g h j k l m n p r s t v w z br dr st tr sh ch".split()
_RIMES: Final = "a e i o u ai or an en il".split()
_SIGNS: Final = string.ascii_letters + string.digits + "_-./:@#%+=&"
_ACCENTED: Final = tuple("áéíóúäöüßñçøåêîłžš你好世界東京мир")
CITIES: Final = tuple(
    "Oslo Paris London Berlin Madrid Rome Tokyo Lima Cairo Delhi Seoul Boston Denver Austin Prague "
    "Vienna Dublin Athens Quito Sofia Lisbon Warsaw Zurich Geneva Milan Naples Lyon Porto Bergen "
    "Kyoto Osaka Perth Sydney Chicago Dallas Miami Seattle Toronto Havana Bogota Lagos Nairobi "
    "Tunis Riga Minsk Kyiv Bonn Munich Hamburg Basel Ghent Utrecht Aarhus Turin Seville".split()
)
PEOPLE: Final = tuple(
    "Anna Ben Carla David Emma Felix Grace Henry Ida Jack Kim Leo Mia Nora Oscar Paul Ruth Sam Tina "
    "Uma Victor Wendy Yusuf Zoe Alice Bob Carol Dan Eve Frank Gina Hugo Ivan Jane Karl Lena Mark "
    "Nina Olga Peter Rosa Steve Tom Vera Walter Ali Chen Priya Diego Fatima Kofi Mei".split()
)
VERBS: Final = tuple(
    "resize translate encrypt compress archive rotate publish schedule cancel approve reject rename "
    "copy move delete upload download print scan merge split sort filter convert measure repair "
    "clean paint order book reserve rent buy sell ship track weigh cook bake brew grind mix heat "
    "cool lock unlock open close start stop pause resume restart install remove update check test "
    "verify sign stamp mail call invite greet thank visit plan draw sketch record play mute tune "
    "learn teach grade rate rank score vote count sum average round plot map locate find fetch load "
    "store index tag label group assign release deploy build compile run trace debug monitor alert "
    "water plant harvest feed walk train wash iron fold pack wrap deliver return refund charge bill "
    "audit tax insure donate lend borrow renew extend shorten trim crop blur sharpen".split()
)
NOUNS: Final = tuple(
    "image file photo video song album playlist book page chapter recipe meal table room flight "
    "train ticket hotel car bike boat truck parcel letter invoice receipt contract report chart "
    "graph spreadsheet slide poster logo icon font color document folder archive database record "
    "backup server container cluster job task ticket issue branch commit release build package "
    "module function variable test alarm timer reminder meeting event calendar contact group team "
    "channel thread comment post article poem story joke quote headline word sentence paragraph "
    "email address phone camera printer scanner lamp door window heater fan pump valve sensor robot "
    "drone garden flower tree lawn dog cat horse bird fish order basket coupon voucher gift card "
    "account loan payment refund salary tax budget wallet coin stock share bond price discount "
    "student teacher course lesson exam grade school library museum concert game match player score "
    "patient doctor pill visa passport map route road bridge station airport harbor island "
    "mountain river planet star signal message secret key password token license profile".split()
)


@cache
def words() -> tuple[str, ...]:
    """Common English words, in no order that matters."""
    text = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def is_held_out(atom: str) -> bool:
    """Whether the atom belongs to evaluation. The case of letters makes no difference."""
    return zlib.crc32(atom.lower().encode()) % HELD_OUT_SHARE == 0


class Pool:
    """A seeded source of atoms of one side, and of texts made of them."""

    def __init__(self, seed: int | str, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out

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

    # --- atoms -----------------------------------------------------------------------------------

    def number(self, digits: int = 5) -> str:
        """A whole number of at most `digits` digits, short ones as often as long ones."""
        return self.atom(lambda: str(self.rng.randrange(10 ** self.rng.randint(1, digits))))

    def english(self) -> str:
        return self.atom(lambda: self.pick(words()))

    def invented(self, most: int = 3) -> str:
        return self.atom(lambda: self._syllables(most))

    def word(self) -> str:
        return self.atom(self._any_word)

    def city(self) -> str:
        if self.chance(0.5):
            return self.atom(lambda: self.pick(CITIES))
        return self.word().capitalize()

    def person(self) -> str:
        if self.chance(0.5):
            return self.atom(lambda: self.pick(PEOPLE))
        return self.word().capitalize()

    def verb(self) -> str:
        return self.atom(lambda: self.pick(VERBS)) if self.chance(0.6) else self.english()

    def noun(self) -> str:
        return self.atom(lambda: self.pick(NOUNS)) if self.chance(0.6) else self.english()

    def _any_word(self) -> str:
        kind = self.rng.random()
        if kind < 0.5:
            return self.pick(words())
        if kind < 0.66:
            return "".join(self.pick(string.ascii_lowercase) for _ in range(self.rng.randint(2, 8)))
        if kind < 0.98:
            return self._syllables(3)
        return "".join(self.pick(_ACCENTED) for _ in range(self.rng.randint(1, 3)))

    def _syllables(self, most: int) -> str:
        size = self.rng.randint(min(2, most), most)
        return "".join(self.pick(_ONSETS) + self.pick(_RIMES) for _ in range(size))

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
        return self.atom(lambda: "".join(self.pick(_SIGNS) for _ in range(size)))

    def key(self) -> str:
        """What things are stored under."""
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

    def identifier(self) -> str:
        """The name of a tool or a parameter."""
        word = self.english() if self.chance(0.6) else self.invented()
        return word if self.chance(0.6) else f"{word}_{self.english()}"
