"""Learn how long agents are away for each tool, from the gaps between their calls. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from statistics import median
from typing import Final

_KEPT: Final = 32  # latest gaps of a tool
_ENOUGH: Final = 3  # gaps needed for an estimate
_MOST_TOOLS: Final = 1_000
_MOST_AGENTS: Final = 10_000


class ToolGaps:
    """The times from an answer that calls a tool to the agent's next call."""

    def __init__(self) -> None:
        self._gaps: OrderedDict[str, deque[float]] = OrderedDict()
        self._away: OrderedDict[int, tuple[str, float]] = OrderedDict()  # by pid: tool, since when

    def left(self, pid: int, tools: Iterable[str], now: float) -> None:
        """Record that an agent's answer calls these tools.

        Only an answer that calls one tool shows how long that tool takes.
        """
        names = set(tools)
        self._away.pop(pid, None)
        if len(names) == 1:
            self._away[pid] = (names.pop(), now)
            if len(self._away) > _MOST_AGENTS:
                self._away.popitem(last=False)

    def returned(self, pid: int, now: float) -> None:
        """Record the next call of an agent."""
        if (away := self._away.pop(pid, None)) is None:
            return
        name, since = away
        gaps = self._gaps.get(name)
        if gaps is None:
            gaps = self._gaps[name] = deque(maxlen=_KEPT)
            if len(self._gaps) > _MOST_TOOLS:
                self._gaps.popitem(last=False)
        gaps.append(now - since)

    def forget(self, pid: int) -> None:
        """Drop what is known of an agent that exited."""
        self._away.pop(pid, None)

    def usual_s(self, tools: Iterable[str]) -> float | None:
        """Return the usual time that the slowest of these tools takes; None if not known."""
        known = [gaps for name in tools if len(gaps := self._gaps.get(name, ())) >= _ENOUGH]
        return max(map(median, known), default=None)
