"""Bound how many sources are loaded at once, including sources that hang while they load.

A load that hangs keeps its thread until the Python process ends, so the number is small. One
agent can take two. Of those for all agents, some are reserved for agents that load nothing
else. The program that owns the kernel has its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from aios_core.errors import Overloaded

MAX_OF_AGENT: Final = 2
MAX_OF_AGENTS: Final = 16
RESERVED: Final = 8  # of those, for agents that load nothing else
MAX_OF_PROGRAM: Final = 8
_RETRY_S: Final = 5.0


class LoadLimit:
    """Counts the loads of each agent, by identity; None is the program.

    Used on the kernel's loop only.
    """

    def __init__(self) -> None:
        self._taken: Counter[str | None] = Counter()

    def __repr__(self) -> str:
        return f"<LoadLimit: {self._taken.total()} taken>"

    def take(self, loader: str | None) -> None:
        """Take a slot for a load. Raises `Overloaded` if there is none."""
        limit = MAX_OF_PROGRAM if loader is None else MAX_OF_AGENT
        if self._taken[loader] >= limit:
            of = "the program" if loader is None else f"agent {loader!r}"
            raise Overloaded(f"the queue of tool loads of {of}", limit, _RETRY_S)
        free = MAX_OF_AGENTS - self._taken.total() + self._taken[None]
        if loader is not None and free <= (RESERVED if self._taken[loader] else 0):
            raise Overloaded("the queue of tool loads", MAX_OF_AGENTS, _RETRY_S)
        self._taken[loader] += 1

    def give_back(self, loader: str | None) -> None:
        """Return the slot of a load that has ended."""
        self._taken[loader] -= 1
        if not self._taken[loader]:
            del self._taken[loader]
