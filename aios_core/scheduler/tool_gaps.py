"""Learn how long agents are away after an answer that asks for a tool. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from statistics import median
from typing import Final

_KEPT: Final = 32  # latest gaps of one tool
_ENOUGH: Final = 3  # gaps needed for an estimate
_MOST_TOOLS: Final = 1_000
_MOST_AGENTS: Final = 10_000


class ToolGaps:
    """The times between answers that ask for tools and the next calls of their agents."""

    def __init__(self) -> None:
        self._gaps: OrderedDict[str, deque[float]] = OrderedDict()
        self._away: OrderedDict[int, tuple[str, float]] = OrderedDict()  # by pid: tool, since when

    def left(self, pid: int, tools: Sequence[str], now: float) -> None:
        """Note that an agent got an answer; `tools` names what it asks for."""
        self._away.pop(pid, None)
        if tools:
            self._away[pid] = (tools[0], now)
            if len(self._away) > _MOST_AGENTS:
                self._away.popitem(last=False)

    def came_back(self, pid: int, now: float) -> None:
        """Note that an agent makes its next call."""
        if (away := self._away.pop(pid, None)) is None:
            return
        tool, since = away
        if tool not in self._gaps:
            self._gaps[tool] = deque(maxlen=_KEPT)
            if len(self._gaps) > _MOST_TOOLS:
                self._gaps.popitem(last=False)
        self._gaps[tool].append(now - since)

    def usual_s(self, tools: Sequence[str]) -> float | None:
        """Return how long agents are usually away for tools, in seconds; None if unknown."""
        known = [gaps for tool in tools if (gaps := self._gaps.get(tool)) and len(gaps) >= _ENOUGH]
        return max(map(median, known)) if known else None

    def forget(self, pid: int) -> None:
        """Drop what is known of an agent that exited."""
        self._away.pop(pid, None)
