"""Names that outlive processes: whose memory and files are whose.

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
from urllib.parse import quote


@dataclass(slots=True)
class _Namesakes:
    highest: int = 0
    free: list[int] = field(default_factory=list)  # a heap, all below `highest`
    num_alive: int = 0


class Identities:
    """Which identities are taken."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, int]] = {}  # identity -> its stem and number
        self._namesakes: dict[str, _Namesakes] = {}

    def claim(self, name: str, group: str, above: str | None = None) -> str:
        """An identity for an agent of that name; `above` is its parent's."""
        stem = f"{above or _escaped(group)}/{_escaped(name)}"
        namesakes = self._namesakes.setdefault(stem, _Namesakes())
        if namesakes.free:
            number = heapq.heappop(namesakes.free)
        else:
            namesakes.highest += 1
            number = namesakes.highest
        namesakes.num_alive += 1
        identity = stem if number == 1 else f"{stem}~{number}"
        self._taken[identity] = (stem, number)
        return identity

    def is_taken(self, identity: str) -> bool:
        """Whether an agent of it is alive."""
        return identity in self._taken

    def release(self, identity: str) -> None:
        """Its agent has exited. Unknown ones are ignored."""
        if (claim := self._taken.pop(identity, None)) is None:
            return
        stem, number = claim
        namesakes = self._namesakes[stem]
        namesakes.num_alive -= 1
        heapq.heappush(namesakes.free, number)
        if not namesakes.num_alive:
            del self._namesakes[stem]


def _escaped(name: str) -> str:
    """The name without the characters that mean something in an identity."""
    return quote(name, safe=" ").replace("~", "%7E")
