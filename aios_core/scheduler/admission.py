"""Decide which agents are active on a core, so that their contexts fit its KV memory.

This is the first of two levels of scheduling (the medium-term scheduler of operating
systems). An agent with its context on a core stays active for `keep_warm_s` between two
calls, such as while it waits for a tool, and its next call goes before those of new
agents, because its context is warm. A new agent is admitted once the active ones leave
enough memory for its context.

On a core with KV images, idle contexts do not count: they can be moved to the host and
back at small cost. On other cores they are useful only where they are, so they count.
Contexts grow with every call. When they outgrow the memory, the agent that was admitted
last is evicted until there is memory again. So the other agents finish, instead of all
agents evicting one another (thrashing).

Few answers need their full token limit, so more can be promised than the memory holds.
The factor is learned from the core's own load: it grows a little with every call while
the memory has space to spare, and is cut when the memory is full (additive increase,
multiplicative decrease, as in congestion control).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aios_core.core import Core, CoreLoad

FULL = 0.98  # share of KV memory in use above which the factor is cut
ROOMY = 0.85  # ... below which the factor is raised
PRESSED = 0.5  # share of KV memory promised above which warm contexts go first
STEP = 0.005  # added to the factor
CUT = 0.95  # multiplies the factor
LOWEST, HIGHEST = 0.7, 1.5  # bounds of the factor


@dataclass(slots=True)
class _ActiveAgent:
    """The KV memory that one agent holds, or will hold, on one core."""

    num_tokens: int = 0
    num_calls: int = 0  # running or suspended
    left_at: float = 0.0  # when the last of them ended


@dataclass(slots=True)
class _ActiveSet:
    """The active agents of one core, in the order in which they were admitted."""

    contexts: dict[int, _ActiveAgent] = field(default_factory=dict)
    num_tokens: int = 0
    factor: float = 1.0

    def drop(self, pid: int) -> None:
        context = self.contexts.pop(pid, None)
        if context is not None:
            self.num_tokens -= context.num_tokens


@dataclass(frozen=True, slots=True)
class AdmissionPlan:
    """A decision about one call and one core. It changes nothing until it is applied."""

    fits: bool
    evicted: tuple[int, ...] = ()  # pids of the agents that are no longer active then


class AdmissionController:
    """The active agents of every core, and the decision whether one more fits.

    `is_active`, `is_pressed` and `plan` change nothing.

    Invariant: `num_tokens` of each core is the sum over its contexts.
    """

    def __init__(self, keep_warm_s: float = 5.0) -> None:
        self.keep_warm_s = keep_warm_s
        self._active: dict[Core, _ActiveSet] = {}
        self.has_any = False  # an agent was active; never true if no core reports its memory

    def is_active(self, core: Core, pid: int) -> bool:
        """Return whether the agent's context is, or is about to be, on the core."""
        active = self._active.get(core)
        return active is not None and pid in active.contexts

    def is_pressed(self, core: Core, load: CoreLoad) -> bool:
        """Return whether the active contexts need more than `PRESSED` of the core's memory."""
        active = self._active.get(core)
        if active is None or load.kv_capacity is None:
            return False
        return active.num_tokens > PRESSED * load.kv_capacity

    def plan(
        self, core: Core, load: CoreLoad, pid: int, num_tokens: int, now: float
    ) -> AdmissionPlan:
        """Decide whether a call of `num_tokens` (prompt and answer) may go to the core.

        To make space, idle agents may be evicted: those past `keep_warm_s`, and those
        admitted after this one. If the call still does not fit, its own agent is evicted,
        if idle. An idle core accepts any call, since only the core itself can decide about
        a call that is larger than its memory.
        """
        if load.kv_capacity is None:
            return AdmissionPlan(fits=True)
        active = self._active.get(core) or _ActiveSet()
        excess = active.num_tokens - load.kv_capacity * active.factor
        context = active.contexts.get(pid)
        # An active agent's context is counted already; only its growth needs space.
        excess += num_tokens if context is None else max(0, num_tokens - context.num_tokens)
        evicted = []
        if excess > 0:
            for other in self._evictable(active, pid, now):
                excess -= active.contexts[other].num_tokens
                evicted.append(other)
                if excess <= 0:
                    break
        # An agent with a running call holds its context anyway: waiting would free nothing.
        if excess <= 0 or load.num_running == 0 or (context is not None and context.num_calls):
            return AdmissionPlan(fits=True, evicted=tuple(evicted))
        return AdmissionPlan(fits=False, evicted=(pid,) if context is not None else ())

    def apply(self, core: Core, plan: AdmissionPlan) -> None:
        """Evict the agents of a plan."""
        for pid in plan.evicted:
            self._active[core].drop(pid)

    def admit(self, core: Core, load: CoreLoad, pid: int, num_tokens: int) -> None:
        """Count a call that starts on the core for the first time, and adapt the factor."""
        if load.kv_capacity is None:
            return
        self.has_any = True
        active = self._active.setdefault(core, _ActiveSet())
        context = active.contexts.setdefault(pid, _ActiveAgent())
        active.num_tokens += max(0, num_tokens - context.num_tokens)
        context.num_tokens = max(context.num_tokens, num_tokens)
        context.num_calls += 1
        used = load.kv_tokens / load.kv_capacity
        if used > FULL:
            active.factor = max(LOWEST, active.factor * CUT)
        elif used < ROOMY:
            active.factor = min(HIGHEST, active.factor + STEP)

    def release(self, core: Core, pid: int, num_tokens: int, now: float) -> None:
        """Count the end of a call; its context of `num_tokens` stays warm for a while."""
        active = self._active.get(core)
        if active is None or (context := active.contexts.get(pid)) is None:
            return
        context.num_calls -= 1
        context.left_at = now
        if context.num_calls == 0:
            stays = 0 if core.capabilities.kv_snapshots else num_tokens
            active.num_tokens += stays - context.num_tokens
            context.num_tokens = stays

    def forget(self, pid: int) -> None:
        """Drop the contexts of an agent that exited."""
        for active in self._active.values():
            active.drop(pid)

    def _evictable(self, active: _ActiveSet, pid: int, now: float) -> Iterator[int]:
        """Yield idle agents in order of eviction: those idle for long, then later ones.

        Evicting only agents that were admitted later makes the order of admission a strict
        order, so two agents can never evict each other in turn.
        """
        long_idle = {
            other
            for other, context in active.contexts.items()
            if other != pid and context.num_calls == 0 and now - context.left_at >= self.keep_warm_s
        }
        yield from long_idle
        if pid not in active.contexts:
            return
        for other, context in reversed(active.contexts.items()):  # the last admitted goes first
            if other == pid:
                return
            if context.num_calls == 0 and other not in long_idle:
                yield other
