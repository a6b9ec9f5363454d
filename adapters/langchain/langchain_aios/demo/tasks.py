"""What the demo's agents do: tools with true results, and tasks that are right or wrong.

An answer is judged by what the tools really said or did, never by how it sounds.
The words are ones that the tiny model's tokenizer was made for; the questions are
shaped as its training had them.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from langchain_core.tools import BaseTool, tool

Ask = Callable[[str], Awaitable[str]]  # one question to the agent; its final answer

# --- the world -----------------------------------------------------------------------------------

_SKIES: Final = ("sunny", "rain", "cloudy", "snow", "windy", "fog")
_CITIES: Final = tuple(
    "Oslo Paris London Berlin Madrid Rome Tokyo Lima Cairo Delhi "  # noqa: SIM905 - a list of words
    "Seoul Boston Denver Austin Prague Vienna Dublin Athens Quito Sofia".split()
)
_WORDS: Final = tuple(
    "tomato potato banana panorama motor tutor major minor human roman token raven pasta "  # noqa: SIM905
    "vista zebra drama mango tango soda sofa tuna menu meta kilo salami domino tornado".split()
)

WEATHER: Final[Mapping[str, str]] = {
    city: f"{(7 * n) % 31} degrees, {_SKIES[n % len(_SKIES)]}" for n, city in enumerate(_CITIES)
}
STOCK: Final[Mapping[str, str]] = {
    f"{word}-{10 + 3 * n}": str(17 + 53 * n) for n, word in enumerate(_WORDS)
}


@dataclass(slots=True)
class Desk:
    """What one agent's tools work on, and what the clock told it."""

    notes: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    now: Callable[[], str] = lambda: "12:30"


def make_tools(desk: Desk) -> list[BaseTool]:
    """The tools of one agent, described as the tiny model has read it in training."""

    @tool(description="do math")
    async def calculator(expression: str) -> str:
        return calculate(expression)

    @tool(description="weather for a place")
    async def weather(city: str) -> str:
        return WEATHER.get(city, f"error: no city {city}")

    @tool(description="look up a value")
    async def lookup(key: str) -> str:
        return STOCK.get(key, f"error: no key {key}")

    @tool(description="save a note")
    async def save_note(text: str) -> str:
        desk.notes.append(text)
        return "saved"

    @tool(description="current time")
    async def clock() -> str:
        desk.times.append(desk.now())
        return desk.times[-1]

    return [calculator, weather, lookup, save_note, clock]


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


# --- tasks ---------------------------------------------------------------------------------------


class Task(Protocol):
    """Something to do, and whether it was done right."""

    @property
    def kind(self) -> str:
        """For people."""

    async def perform(self, ask: Ask, desk: Desk) -> bool:
        """Do it. Returns whether the result is right."""


@dataclass(frozen=True, slots=True)
class Worksheet:
    """Sums that go on from one another's results: the long job.

    Each question is made of the answer before it, so one slip spoils the rest.
    """

    start: int
    steps: tuple[tuple[str, int], ...]
    kind: str = "worksheet"

    @property
    def truth(self) -> int:
        value = self.start
        for symbol, operand in self.steps:
            value = int(calculate(f"{value} {symbol} {operand}"))
        return value

    async def perform(self, ask: Ask, desk: Desk) -> bool:  # noqa: ARG002 - it needs no desk
        value = self.start
        for symbol, operand in self.steps:
            answer = await ask(f"what is {value} {symbol} {operand}?")
            numbers = re.findall(r"-?\d+", answer)
            if not numbers:
                return False
            value = int(numbers[-1])
        return value == self.truth


@dataclass(frozen=True, slots=True)
class Fact:
    """One question whose answer a table has."""

    question: str
    truth: str
    kind: str

    async def perform(self, ask: Ask, desk: Desk) -> bool:  # noqa: ARG002
        return self.truth in await ask(self.question)


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be written down, word for word."""

    text: str
    kind: str = "note"

    async def perform(self, ask: Ask, desk: Desk) -> bool:
        await ask(f"save a note: {self.text}")
        return self.text in desk.notes


@dataclass(frozen=True, slots=True)
class Time:
    """The time, as the clock told it."""

    kind: str = "clock"

    async def perform(self, ask: Ask, desk: Desk) -> bool:
        answer = await ask("what time is it?")
        return bool(desk.times) and desk.times[-1] in answer


def worksheet(rng: random.Random, num_steps: int) -> Worksheet:
    """A random one whose numbers stay small and positive."""
    steps = [
        ("*", rng.randint(2, 9)) if n % 3 == 1 else ("+", rng.randint(10, 99))
        for n in range(num_steps)
    ]
    return Worksheet(rng.randint(100, 900), tuple(steps))


def errand(rng: random.Random) -> Task:
    """A random short task."""
    match rng.randrange(5):
        case 0:
            a, b = rng.randint(10, 999), rng.randint(10, 99)
            return Fact(f"what is {a} plus {b}?", str(a + b), "sum")
        case 1:
            city = rng.choice(_CITIES)
            return Fact(f"what is the weather in {city}?", WEATHER[city], "weather")
        case 2:
            key = rng.choice(tuple(STOCK))
            return Fact(f"look up {key}", STOCK[key], "look-up")
        case 3:
            return Note(f"{rng.choice(_WORDS)} {rng.randint(1, 99)}")
        case _:
            return Time()
