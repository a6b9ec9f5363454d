"""Admission: which agents are active on a core, so that their contexts fit its KV memory.

The first of two levels of scheduling. An agent whose context is on a core keeps
its place while it waits for a tool (for `keep_warm_s`), and its next call goes
ahead of new agents: its context is warm. A new agent is let in when the contexts
of the active ones leave room for its own.

How much may be promised is learned from the core's own signal. Promising the
full length of every answer wastes memory; promising too little makes the engine
evict. So the promise is a factor on the memory, raised a little while the core
has room to spare and cut when it runs full (additive increase, multiplicative
decrease, as in congestion control).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aios_core.core import Core, CoreLoad

FULL = 0.95  # share of KV memory in use above which the factor is cut
STEP = 0.01
CUT = 0.8
LOWEST, HIGHEST = 0.5, 2.0


@dataclass(slots=True)
class _Context:
    """What one agent holds, or will hold, on one core."""

    num_tokens: int
    num_running: int
    left_at: float = 0.0


@dataclass(slots=True)
class _Books:
    contexts: dict[int, _Context] = field(default_factory=dict)
    num_tokens: int = 0
    factor: float = 1.0


class Admission:
    """The active agents of every core, and whether one more fits."""

    def __init__(self, keep_warm_s: float = 5.0) -> None:
        self.keep_warm_s = keep_warm_s
        self._books: dict[Core, _Books] = {}

    def is_active(self, core: Core, pid: int) -> bool:
        """Whether the agent's context is, or is about to be, on the core."""
        books = self._books.get(core)
        return books is not None and pid in books.contexts

    def fits(self, core: Core, load: CoreLoad, pid: int, num_tokens: int, now: float) -> bool:
        """Whether a call of `num_tokens` (prompt and answer) may go to the core.

        A call of an active agent always may, and so may any call to an idle core:
        the core itself knows best how to serve something larger than its memory.
        """
        if load.kv_capacity is None or self.is_active(core, pid):
            return True
        books = self._books.setdefault(core, _Books())
        room = load.kv_capacity * books.factor - num_tokens
        if books.num_tokens > room:
            self._expire(books, now)
        return books.num_tokens <= room or load.num_running == 0

    def enter(self, core: Core, load: CoreLoad, pid: int, num_tokens: int) -> None:
        """A call of the agent starts on the core."""
        if load.kv_capacity is None:
            return
        books = self._books.setdefault(core, _Books())
        context = books.contexts.setdefault(pid, _Context(0, 0))
        books.num_tokens += max(0, num_tokens - context.num_tokens)
        context.num_tokens = max(context.num_tokens, num_tokens)
        context.num_running += 1
        self._adapt(books, load.kv_tokens / load.kv_capacity)

    def leave(self, core: Core, pid: int, num_tokens: int, now: float) -> None:
        """A call ended; its context of `num_tokens` stays warm for a while."""
        books = self._books.get(core)
        if books is None or (context := books.contexts.get(pid)) is None:
            return
        context.num_running -= 1
        context.left_at = now
        if context.num_running == 0:
            books.num_tokens += num_tokens - context.num_tokens
            context.num_tokens = num_tokens

    def forget(self, pid: int) -> None:
        """The agent is gone."""
        for books in self._books.values():
            if context := books.contexts.pop(pid, None):
                books.num_tokens -= context.num_tokens

    def _expire(self, books: _Books, now: float) -> None:
        for pid, context in tuple(books.contexts.items()):
            if context.num_running == 0 and now - context.left_at >= self.keep_warm_s:
                books.num_tokens -= context.num_tokens
                del books.contexts[pid]

    @staticmethod
    def _adapt(books: _Books, used: float) -> None:
        factor = books.factor * CUT if used > FULL else books.factor + STEP
        books.factor = min(HIGHEST, max(LOWEST, factor))
