"""Know how many tokens an agent's next prompt has, before a core counts them.

An agent's conversation mostly grows, so the best estimate of its next prompt is the exact size
of the last one, which the backend reported, plus an estimate of what is new. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from aios_core.messages import Usage

_MOST_AGENTS: Final = 10_000  # agents that are remembered, the latest ones


class _LastPrompt(NamedTuple):
    model: str | None
    estimated: int  # tokens, before it was sent
    exact: int  # tokens, as the backend reported


class ContextSizes:
    """The sizes of the agents' latest prompts: as estimated, and as reported."""

    def __init__(self) -> None:
        self._last: OrderedDict[int, _LastPrompt] = OrderedDict()

    def prompt_tokens(self, pid: int, model: str | None, estimated: int) -> int:
        """Return the tokens of an agent's next prompt, given an estimate from its text."""
        last = self._last.get(pid)
        if last is None or last.model != model or last.estimated <= 0:
            return estimated
        if estimated >= last.estimated:
            return last.exact + estimated - last.estimated
        return max(1, round(estimated * last.exact / last.estimated))

    def learn(self, pid: int, model: str | None, estimated: int, usage: Usage) -> None:
        """Record the usage that the backend reported for a prompt."""
        if usage.is_estimated or usage.input_tokens <= 0:
            return
        self._last[pid] = _LastPrompt(model, estimated, usage.input_tokens)
        self._last.move_to_end(pid)
        if len(self._last) > _MOST_AGENTS:
            self._last.popitem(last=False)

    def forget(self, pid: int) -> None:
        """Drop the sizes of an agent that exited."""
        self._last.pop(pid, None)
