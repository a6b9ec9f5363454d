"""Decide which agents are active on a core, so that their contexts fit its KV memory.

This is the first of two levels of scheduling (the medium-term scheduler of operating systems). An
active agent keeps its context on a core between two calls, such as while it waits for a tool, and
its next call starts at once, because its context is warm. The calls of other agents wait until
the active ones leave enough memory. So agents do not evict one another's contexts (thrashing),
and a prompt is computed once instead of at each call.

An agent stays active until it exits, or has been idle for longer than its context is worth its
memory (`prefill_rate`), or must make room: contexts grow, and if they outgrow the memory, the idle
agent with the least progress leaves. One that works never leaves. An agent that left is like a
new one: its next call waits for room.

On a core with KV images, idle contexts do not count: they can be moved to the host and back at
small cost. How much of the memory active agents may have is learned (`memory_share`).

Decisions (`plan`) are pure, and change nothing until they are applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from aios_core.core import Core, CoreLoad
from aios_core.errors import KernelBug
from aios_core.scheduler.context_sizes import ContextSize, SharedPrefix
from aios_core.scheduler.memory_share import MemoryShare, SwappedShare
from aios_core.scheduler.prefill_rate import PrefillRate

_GROWTH_WEIGHT: Final = 0.05  # of a new measurement of how much contexts grow from call to call


@dataclass(slots=True)
class ActiveAgent:
    """The KV memory that one agent holds, or will hold, on one core."""

    seq: int  # position in the order of admission
    progress: int = 0  # answers that the agent has had
    prefix: SharedPrefix | None = None  # which its tokens do not include
    idle_tokens: int = 0  # that stay between two calls
    call_tokens: int = 0  # of its calls, running or suspended
    num_calls: int = 0
    leaves_at: float = 0.0  # while it is idle: from when on others may have its memory

    @property
    def num_tokens(self) -> int:
        return max(self.idle_tokens, self.call_tokens)

    @property
    def is_idle(self) -> bool:
        return self.num_calls == 0


@dataclass(slots=True)
class ActiveSet:
    """The active agents of one core.

    Invariant: `num_tokens` is the sum over the agents, and over the prefixes that they share.
    """

    share: MemoryShare = field(default_factory=MemoryShare)
    num_prefilling: int = 0  # calls that wait for their first token
    rate: PrefillRate = field(default_factory=PrefillRate)
    agents: dict[int, ActiveAgent] = field(default_factory=dict)
    num_tokens: int = 0
    growth: float = 0.0  # tokens by which a context grows from call to call
    _num_with_prefix: dict[SharedPrefix, int] = field(default_factory=dict)
    _num_admitted: int = 0

    def tokens_for(self, pid: int, size: ContextSize) -> int:
        """Return the tokens that one more call of an agent adds."""
        agent = self.agents.get(pid)
        if agent is None:
            is_new = size.prefix is not None and size.prefix not in self._num_with_prefix
            return size.num_own + (size.prefix.num_tokens if size.prefix and is_new else 0)
        grown = agent.call_tokens + self._own_tokens(agent, size)
        return max(agent.idle_tokens, grown) - agent.num_tokens

    def begin(self, pid: int, size: ContextSize, progress: int) -> bool:
        """Count a call. Returns whether its agent was active already."""
        agent = self.agents.get(pid)
        is_warm = agent is not None
        if agent is None:
            agent = self.agents[pid] = ActiveAgent(self._num_admitted, progress, size.prefix)
            self._num_admitted += 1
            self._count_prefix(size.prefix, 1)
        before = agent.num_tokens
        agent.call_tokens += self._own_tokens(agent, size)
        agent.num_calls += 1
        self.num_tokens += agent.num_tokens - before
        return is_warm

    def grow(self, pid: int, num_tokens: int) -> None:
        """Count tokens of an answer that is longer than expected."""
        if (agent := self.agents.get(pid)) is not None and agent.num_calls:
            before = agent.num_tokens
            agent.call_tokens += num_tokens
            self.num_tokens += agent.num_tokens - before

    def end(self, pid: int, size: ContextSize, stays: int, leaves_at: float) -> None:
        """Count the end of a call; `stays` tokens of the agent's context are kept while idle."""
        if (agent := self.agents.get(pid)) is None:
            return
        before = agent.num_tokens
        agent.num_calls = max(0, agent.num_calls - 1)
        left = agent.call_tokens - self._own_tokens(agent, size)
        agent.call_tokens = max(0, left) if agent.num_calls else 0
        shared = agent.prefix.num_tokens if agent.prefix else 0
        agent.idle_tokens = max(0, stays - shared)
        agent.leaves_at = leaves_at
        agent.progress += 1
        self.num_tokens += agent.num_tokens - before

    def drop(self, pid: int) -> None:
        """Stop counting an agent."""
        if (agent := self.agents.pop(pid, None)) is not None:
            self.num_tokens -= agent.num_tokens
            self._count_prefix(agent.prefix, -1)

    def idle(self) -> Iterator[tuple[int, ActiveAgent]]:
        """Iterate over the agents without a call, and their pids."""
        return ((pid, agent) for pid, agent in self.agents.items() if agent.is_idle)

    def learn_growth(self, num_tokens: int) -> None:
        """Record by how much a context has grown from one answer to the next."""
        self.growth += _GROWTH_WEIGHT * (max(0, num_tokens) - self.growth)

    def sum(self) -> int:
        """Return what `num_tokens` must be. For tests and debugging."""
        shared = sum(prefix.num_tokens for prefix in self._num_with_prefix)
        return shared + sum(agent.num_tokens for agent in self.agents.values())

    @staticmethod
    def _own_tokens(agent: ActiveAgent, size: ContextSize) -> int:
        return size.num_own if agent.prefix == size.prefix else size.num_tokens

    def _count_prefix(self, prefix: SharedPrefix | None, change: int) -> None:
        if prefix is None:
            return
        before = self._num_with_prefix.get(prefix, 0)
        if before == 0:
            self.num_tokens += prefix.num_tokens
        self._num_with_prefix[prefix] = before + change
        if before + change == 0:
            del self._num_with_prefix[prefix]
            self.num_tokens -= prefix.num_tokens


@dataclass(frozen=True, slots=True)
class AdmissionPlan:
    """A decision about one call and one core. It changes nothing until it is applied."""

    fits: bool
    evicted: tuple[int, ...] = ()  # pids of the agents that are no longer active then


FITS: Final = AdmissionPlan(fits=True)


def plan(
    active: ActiveSet,
    pid: int,
    size: ContextSize,
    *,
    capacity: int,
    now: float,
    is_overdue: bool = False,
) -> AdmissionPlan:
    """Decide whether a call may go to a core, and which idle agents leave for it.

    For a call of an active agent, idle agents with less progress leave; if that is not enough, its
    own agent leaves if idle, since its place serves others better. For another call, agents leave
    that were idle for long; if the call is overdue, all idle ones may. A core without other active
    agents accepts any call: only the core itself can decide about one larger than its memory.
    """
    agent = active.agents.get(pid)
    limit = active.share.limit(capacity, is_active=agent is not None)
    excess = active.num_tokens + active.tokens_for(pid, size) - limit
    if excess <= 0:
        return FITS
    evicted = []
    for other in _order_of_eviction(active, pid, now, is_overdue=is_overdue):
        excess -= active.agents[other].num_tokens
        evicted.append(other)
        if excess <= 0:
            return AdmissionPlan(fits=True, evicted=tuple(evicted))
    gone = {pid, *evicted}
    if not any(it.num_tokens for other, it in active.agents.items() if other not in gone):
        return AdmissionPlan(fits=True, evicted=tuple(evicted))  # it is alone
    leaves = agent is not None and agent.is_idle
    return AdmissionPlan(fits=False, evicted=(pid,) if leaves else ())


def _order_of_eviction(
    active: ActiveSet, pid: int, now: float, *, is_overdue: bool
) -> Iterator[int]:
    """Yield the idle agents that may leave for a call, in the order in which they leave.

    Agents leave for an active one only if they have less progress, or as much and a later
    admission. That is a strict order, so two agents never evict each other in turn.
    """
    agent = active.agents.get(pid)
    idle = [(other, it) for other, it in active.idle() if other != pid and it.num_tokens]
    long_idle = [(it.leaves_at, other) for other, it in idle if it.leaves_at <= now]
    yield from (other for _, other in sorted(long_idle))
    if agent is None and not is_overdue:
        return
    rest = [(it.progress, -it.seq, other) for other, it in idle if it.leaves_at > now]
    rest.sort()
    mine = None if agent is None else (agent.progress, -agent.seq, pid)
    yield from (entry[2] for entry in rest if mine is None or entry < mine)


class AdmissionController:
    """The active agents of every core, and the decision whether one more fits.

    Args:
        keep_warm_s: how long an idle agent stays active; None: as long as computing its context
            again would cost more than its memory is worth.
    """

    def __init__(self, keep_warm_s: float | None = None) -> None:
        self.keep_warm_s = keep_warm_s
        self._active: dict[Core, ActiveSet] = {}

    def is_active(self, core: Core, pid: int) -> bool:
        """Return whether the agent's context is, or is about to be, on the core."""
        active = self._active.get(core)
        return active is not None and pid in active.agents

    def of(self, core: Core) -> ActiveSet:
        """Return the active agents of a core."""
        active = self._active.get(core)
        if active is None:
            has_images = core.capabilities.kv_snapshots
            active = ActiveSet(SwappedShare() if has_images else MemoryShare())
            self._active[core] = active
        return active

    def plan(
        self,
        core: Core,
        load: CoreLoad,
        pid: int,
        size: ContextSize,
        now: float,
        *,
        is_overdue: bool = False,
    ) -> AdmissionPlan:
        """Decide whether a call may go to the core. Changes nothing."""
        if load.kv_capacity is None:
            return FITS
        active = self.of(core)
        return plan(active, pid, size, capacity=load.kv_capacity, now=now, is_overdue=is_overdue)

    def apply(self, core: Core, plan: AdmissionPlan) -> None:
        """Evict the agents of a plan."""
        for pid in plan.evicted:
            self._active[core].drop(pid)

    def admit(self, core: Core, pid: int, size: ContextSize, progress: int = 0) -> bool:
        """Count a call that starts on the core. Returns whether its agent was active already."""
        return self.of(core).begin(pid, size, progress)

    def release(
        self,
        core: Core,
        load: CoreLoad,
        pid: int,
        size: ContextSize,
        *,
        num_tokens: int,
        now: float,
        leaves: bool = False,
    ) -> None:
        """Count the end of a call; its context of `num_tokens` stays warm for a while.

        With `leaves`, others may have the agent's memory at once, since it is away for long.
        """
        active = self.of(core)
        stays = 0 if core.capabilities.kv_snapshots else num_tokens + round(active.growth)
        active.end(pid, size, stays, now + (0.0 if leaves else self.time_to_live(core, load)))

    def time_to_live(self, core: Core, load: CoreLoad) -> float:
        """Return for how many seconds an idle agent stays active on a core."""
        if self.keep_warm_s is not None:
            return self.keep_warm_s
        return self.of(core).rate.time_to_live(load)

    def forget_core(self, core: Core) -> None:
        """Drop the active agents of a core that was removed, or went down."""
        self._active.pop(core, None)

    def forget(self, pid: int) -> None:
        """Drop the contexts of an agent that exited."""
        for active in self._active.values():
            active.drop(pid)

    def next_departure(self, core: Core, now: float) -> float | None:
        """Return when the next idle agent may leave a core; None if none is idle."""
        if (active := self._active.get(core)) is None:
            return None
        return min((it.leaves_at for _, it in active.idle() if it.leaves_at > now), default=None)

    def check(self) -> None:
        """Raise `KernelBug` unless the sums are right. For tests and debugging."""
        for core, active in self._active.items():
            if active.num_tokens != active.sum():
                raise KernelBug(f"{core.name}: {active.num_tokens} tokens, not {active.sum()}")
