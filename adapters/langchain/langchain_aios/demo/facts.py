"""A small world of facts, about which the demo's agents are asked.

The words are ones that the tiny model's tokenizer was made for.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

_SKIES: Final = ("sunny", "rain", "cloudy", "snow", "windy", "fog")
CITIES: Final = tuple(
    "Oslo Paris London Berlin Madrid Rome Tokyo Lima Cairo Delhi "  # noqa: SIM905 - a list of words
    "Seoul Boston Denver Austin Prague Vienna Dublin Athens Quito Sofia".split()
)
WORDS: Final = tuple(
    "tomato potato banana panorama motor tutor major minor human roman token raven pasta "  # noqa: SIM905
    "vista zebra drama mango tango soda sofa tuna menu meta kilo salami domino tornado".split()
)

WEATHER: Final[Mapping[str, str]] = {
    city: f"{(7 * n) % 31} degrees, {_SKIES[n % len(_SKIES)]}" for n, city in enumerate(CITIES)
}
STOCK: Final[Mapping[str, str]] = {
    f"{word}-{10 + 3 * n}": str(17 + 53 * n) for n, word in enumerate(WORDS)
}

#: The tools that every agent has, described as the tiny model has read it in training.
TOOLS: Final[Mapping[str, str]] = {
    "calculator": "do math",
    "weather": "weather for a place",
    "lookup": "look up a value",
    "save_note": "save a note",
    "clock": "current time",
}

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def calculate(expression: str) -> str:
    """The value of a sum of whole numbers; a text that begins with "error" if it is none."""
    try:
        return str(_value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, TypeError, KeyError):
        return f"error: not a sum: {expression}"


def _value(node: ast.expr) -> int:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left), _value(right))
        case ast.Constant(value=int() as number):
            return number
        case _:
            raise TypeError(ast.dump(node))


def time_of_day() -> str:
    """Now, such as "12:30"."""
    return datetime.now().astimezone().strftime("%H:%M")
