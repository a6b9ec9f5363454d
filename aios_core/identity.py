"""Durable names of agents, which own memory and files across process lifetimes.

An identity is the group and the name of an agent, below its parent's identity if
it has one: "research/reader", "research/reader/helper". What an agent keeps
beyond its life belongs to its identity, so the next agent of that name finds it.

Promise: no two agents alive share an identity. Further ones of the same name are
"research/reader~2", "research/reader~3"; a number that became free is taken again,
the lowest first. Pure bookkeeping, touched only by the kernel's loop.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from aios_core.errors import InvalidRequest

_MAX_DIGITS: Final = 5  # of a number: `guard.max_agents` allows 100,000 agents at once


@dataclass(slots=True)
class _NameCounts:
    highest: int = 0
    free: list[int] = field(default_factory=list)  # a heap, all below `highest`
    num_alive: int = 0

    def take(self, wanted: int | None = None) -> int:
        """Take the wanted number if it is free, else the lowest that is."""
        self.num_alive += 1
        if wanted is not None and wanted > self.highest:
            for number in range(self.highest + 1, wanted):
                heapq.heappush(self.free, number)
            self.highest = wanted
            return wanted
        if wanted in self.free:
            self.free.remove(wanted)
            heapq.heapify(self.free)
            return wanted
        if self.free:
            return heapq.heappop(self.free)
        self.highest += 1
        return self.highest

    def give_back(self, number: int) -> None:
        """Its agent has exited."""
        self.num_alive -= 1
        heapq.heappush(self.free, number)


class Identities:
    """Which identities are taken."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, int]] = {}  # identity -> its stem and number
        self._namesakes: dict[str, _NameCounts] = {}

    def claim(
        self, name: str, group: str, above: str | None = None, *, wanted: str | None = None
    ) -> str:
        """Take an identity for an agent of that name; `above` is its parent's.

        `wanted` is its identity from an earlier lifetime: it gets it back if no agent has it
        now, else another one below the same parent. Raises `InvalidRequest` if that is not
        an identity of an agent of this name.
        """
        stem, number = f"{above or _escaped(group)}/{_escaped(name)}", None
        if wanted is not None:
            stem, number = _parsed(wanted, name)
        namesakes = self._namesakes.setdefault(stem, _NameCounts())
        number = namesakes.take(number)
        identity = stem if number == 1 else f"{stem}~{number}"
        self._taken[identity] = (stem, number)
        return identity

    def is_taken(self, identity: str) -> bool:
        """Return whether an agent of it is alive."""
        return identity in self._taken

    def release(self, identity: str) -> None:
        """Its agent has exited. Unknown ones are ignored."""
        if (claim := self._taken.pop(identity, None)) is None:
            return
        stem, number = claim
        namesakes = self._namesakes[stem]
        namesakes.give_back(number)
        if not namesakes.num_alive:
            del self._namesakes[stem]


def _parsed(identity: str, name: str) -> tuple[str, int]:
    """The stem and the number of an identity that an agent of that name had."""
    stem, mark, digits = identity.rpartition("~")
    if not (mark and digits.isdecimal()):
        stem, digits = identity, "1"
    above, _, last = stem.rpartition("/")
    number = int(digits) if len(digits) <= _MAX_DIGITS else 0
    if not above or last != _escaped(name) or not number:
        raise InvalidRequest(
            f"identity: got {identity!r}; allowed: one of an agent named {name!r}, such as "
            f"'group/{name}'"
        )
    return stem, number


def _escaped(name: str) -> str:
    """The name without the characters that mean something in an identity."""
    return quote(name, safe=" ").replace("~", "%7E")


def group_of(identity: str) -> str:
    """Return the group that an identity starts with."""
    return unquote(identity.partition("/")[0])
