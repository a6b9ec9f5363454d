"""Admission: which agents are active on a core, so that their contexts fit its KV memory.

The first of two levels of scheduling (the medium-term scheduler of operating
systems). An agent whose context is on a core stays active while it waits for a
tool, for `keep_warm_s`, and its next call goes ahead of new agents: its context
is warm. A new agent is let in when the active ones leave room for it.

Idle contexts of a core with KV images take no room: they can be moved to the host
and back at small cost. On other cores they must stay to be of use, so they count.
Contexts grow with every turn; when those that count outgrow the memory, the agent
that was admitted last is put out until there is room again, so that the others
finish instead of all of them evicting one another.

How much may be promised is learned from the core's own signal: the full length of
every answer is rarely needed, so the promise is a factor on the memory, raised a
little with every call while the core has room to spare and cut when it runs full
(additive increase, multiplicative decrease, as in congestion control).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aios_core.core import Core, CoreLoad

FULL = 0.98  # share of KV memory in use above which the factor is cut
ROOMY = 0.85  # ... below which it is raised
PRESSED = 0.5
STEP = 0.005
CUT = 0.95
LOWEST, HIGHEST = 0.7, 1.5


@dataclass(slots=True)
class _Context:
    """What one agent holds, or will hold, on one core."""

    num_tokens: int = 0
    num_calls: int = 0  # running or suspended
    left_at: float = 0.0  # when the last of them ended


@dataclass(slots=True)
class _Books:
    """The active agents of one core, in the order in which they were admitted."""

    contexts: dict[int, _Context] = field(default_factory=dict)
    num_tokens: int = 0
    factor: float = 1.0

    def drop(self, pid: int) -> None:
        context = self.contexts.pop(pid, None)
        if context is not None:
            self.num_tokens -= context.num_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """What it would take to let a call go to a core. A plan changes nothing until it is applied."""

    fits: bool
    evicted: tuple[int, ...] = ()  # the agents that are active no longer then


class Admission:
    """The active agents of every core, and whether one more fits.

    Questions (`is_active`, `is_pressed`, `plan`) change nothing.

    Invariant of each core's books: `num_tokens` is the sum over its contexts.
    """

    def __init__(self, keep_warm_s: float = 5.0) -> None:
        self.keep_warm_s = keep_warm_s
        self._books: dict[Core, _Books] = {}
        self.has_any = False  # whether any agent was ever active: not where no memory is known

    def is_active(self, core: Core, pid: int) -> bool:
        """Return whether the agent's context is, or is about to be, on the core."""
        books = self._books.get(core)
        return books is not None and pid in books.contexts

    def is_pressed(self, core: Core, load: CoreLoad) -> bool:
        """Return whether the active contexts fill more than half of the core's memory."""
        books = self._books.get(core)
        if books is None or load.kv_capacity is None:
            return False
        return books.num_tokens > PRESSED * load.kv_capacity

    def plan(self, core: Core, load: CoreLoad, pid: int, num_tokens: int, now: float) -> Plan:
        """Work out whether a call of `num_tokens` (prompt and answer) may go to the core.

        For it, agents may be evicted that have been idle for long, or were admitted
        after this one and are idle. An idle agent whose call does not fit all the
        same is evicted itself. Anything may go to an idle core: it knows best how to
        serve what is larger than its memory.
        """
        if load.kv_capacity is None:
            return Plan(fits=True)
        books = self._books.get(core) or _Books()
        excess = books.num_tokens - load.kv_capacity * books.factor
        context = books.contexts.get(pid)
        excess += num_tokens if context is None else max(0, num_tokens - context.num_tokens)
        evicted = []
        if excess > 0:
            for other in self._evictable(books, pid, now):
                excess -= books.contexts[other].num_tokens
                evicted.append(other)
                if excess <= 0:
                    break
        if excess <= 0 or load.num_running == 0 or (context is not None and context.num_calls):
            return Plan(fits=True, evicted=tuple(evicted))
        return Plan(fits=False, evicted=(pid,) if context is not None else ())

    def apply(self, core: Core, plan: Plan) -> None:
        """Make the agents inactive that a plan evicts."""
        for pid in plan.evicted:
            self._books[core].drop(pid)

    def enter(self, core: Core, load: CoreLoad, pid: int, num_tokens: int) -> None:
        """A call of the agent starts on the core for the first time."""
        if load.kv_capacity is None:
            return
        self.has_any = True
        books = self._books.setdefault(core, _Books())
        context = books.contexts.setdefault(pid, _Context())
        books.num_tokens += max(0, num_tokens - context.num_tokens)
        context.num_tokens = max(context.num_tokens, num_tokens)
        context.num_calls += 1
        used = load.kv_tokens / load.kv_capacity
        if used > FULL:
            books.factor = max(LOWEST, books.factor * CUT)
        elif used < ROOMY:
            books.factor = min(HIGHEST, books.factor + STEP)

    def leave(self, core: Core, pid: int, num_tokens: int, now: float) -> None:
        """A call ended; its context of `num_tokens` stays warm for a while."""
        books = self._books.get(core)
        if books is None or (context := books.contexts.get(pid)) is None:
            return
        context.num_calls -= 1
        context.left_at = now
        if context.num_calls == 0:
            stays = 0 if core.capabilities.kv_snapshots else num_tokens
            books.num_tokens += stays - context.num_tokens
            context.num_tokens = stays

    def forget(self, pid: int) -> None:
        """The agent is gone."""
        for books in self._books.values():
            books.drop(pid)

    def _evictable(self, books: _Books, pid: int, now: float) -> Iterator[int]:
        """Yield idle agents in the order of eviction: the long idle, then those after `pid`."""
        long_idle = {
            other
            for other, context in books.contexts.items()
            if other != pid and context.num_calls == 0 and now - context.left_at >= self.keep_warm_s
        }
        yield from long_idle
        if pid not in books.contexts:
            return
        for other, context in reversed(books.contexts.items()):  # those admitted last go first
            if other == pid:
                return
            if context.num_calls == 0 and other not in long_idle:
                yield other
