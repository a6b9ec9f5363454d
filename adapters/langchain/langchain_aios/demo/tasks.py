"""Define the tasks of the demo's agents, and check their answers.

An answer is judged by the results and effects of the tools, not by its wording. The
questions have the form of the tiny model's training data.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from langchain_aios.demo.facts import CITIES, STOCK, WEATHER, WORDS, calculate, time_of_day

Ask = Callable[[str], Awaitable[str]]  # one question to the agent; its final answer


class NoteStore(Protocol):
    """Where one agent's tools put things."""

    async def notes(self) -> list[str]:
        """Return the stored notes."""


class Task(Protocol):
    """Something to do, and whether it was done right."""

    @property
    def kind(self) -> str:
        """For people."""

    async def perform(self, ask: Ask, desk: NoteStore) -> bool:
        """Do it. Returns whether the result is right."""


@dataclass(frozen=True, slots=True)
class Worksheet:
    """A long task of sums, each of which continues from the result before it.

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

    async def perform(self, ask: Ask, desk: NoteStore) -> bool:  # noqa: ARG002 - it needs no desk
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
    """A question that a table answers."""

    question: str
    truth: str
    kind: str

    async def perform(self, ask: Ask, desk: NoteStore) -> bool:  # noqa: ARG002
        return self.truth in await ask(self.question)


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be written down, word for word."""

    text: str
    kind: str = "note"

    async def perform(self, ask: Ask, desk: NoteStore) -> bool:
        await ask(f"save a note: {self.text}")
        return self.text in await desk.notes()


@dataclass(frozen=True, slots=True)
class Time:
    """A question for the time of day, which only the clock answers."""

    now: Callable[[], str] = time_of_day
    kind: str = "clock"

    async def perform(self, ask: Ask, desk: NoteStore) -> bool:  # noqa: ARG002
        asked_at = self.now()
        answer = await ask("what time is it?")
        return asked_at in answer or self.now() in answer


def worksheet(rng: random.Random, num_steps: int) -> Worksheet:
    """Return a random task with small positive numbers."""
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
            city = rng.choice(CITIES)
            return Fact(f"what is the weather in {city}?", WEATHER[city], "weather")
        case 2:
            key = rng.choice(tuple(STOCK))
            return Fact(f"look up {key}", STOCK[key], "look-up")
        case 3:
            return Note(f"{rng.choice(WORDS)} {rng.randint(1, 99)}")
        case _:
            return Time()
