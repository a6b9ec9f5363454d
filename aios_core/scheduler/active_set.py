"""The agents that are active on one core, and the decision whether one more call fits. Pure.

A context is charged as the tokens of its own: a prefix that the agents of a group share, such as
a system prompt and tools, is in the memory once, and is charged once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

FORCED_FACTOR: Final = 2.0  # so many times overdue, an agent takes the room of idle ones


@dataclass(slots=True)
class ActiveAgent:
    """The KV memory that one agent holds, or will hold, on one core."""

    group: str
    context: int = 0  # tokens that it left there after its last call
    in_calls: int = 0  # tokens of its calls there, running or suspended
    num_calls: int = 0
    num_turns: int = 0  # calls of its whole life that have ended
    left_at: float = 0.0  # when the last of them ended
    is_away: bool = False  # waits for a tool that usually takes longer than the time to live

    @property
    def num_tokens(self) -> int:
        """The tokens that it holds, shared ones included."""
        return max(self.context, self.in_calls)

    @property
    def is_idle(self) -> bool:
        return self.num_calls == 0


@dataclass(slots=True)
class ActiveSet:
    """The active agents of one core by pid, in the order in which they were admitted."""

    agents: dict[int, ActiveAgent] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)  # tokens of the prefix, by group

    @property
    def num_tokens(self) -> int:
        """The tokens that all of them hold, shared prefixes once."""
        groups = {agent.group for agent in self.agents.values()}
        own = sum(map(self.own_tokens, self.agents.values()))
        return own + sum(self.shared.get(group, 0) for group in groups)

    def own_tokens(self, agent: ActiveAgent) -> int:
        """Return the tokens of an agent that its group does not share."""
        return max(0, agent.num_tokens - self.shared.get(agent.group, 0))

    def need(self, pid: int, group: str, num_tokens: int) -> int:
        """Return how much a call of `num_tokens` adds to `num_tokens` of the set."""
        agent = self.agents.get(pid)
        if agent is not None:
            held = agent.num_tokens
            return max(0, max(agent.context, agent.in_calls + num_tokens) - held)
        shared = self.shared.get(group, 0)
        is_there = any(other.group == group for other in self.agents.values())
        return max(0, num_tokens - shared) if is_there else max(num_tokens, shared)


@dataclass(frozen=True, slots=True)
class Room:
    """The KV memory that may be promised, in tokens, and the times after which places are given."""

    for_new: int  # up to which new agents are admitted
    for_active: int  # up to which the contexts of active agents may grow
    ttl_s: float  # after that time an idle agent gives its place to one that waits
    overdue_s: float = inf  # an agent that has waited so long goes next


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call that wants to run on a core."""

    pid: int
    group: str
    num_tokens: int  # prompt and expected answer
    waited_s: float = 0.0  # for its place


@dataclass(frozen=True, slots=True)
class AdmissionPlan:
    """A decision about one call and one core. It changes nothing until it is applied."""

    fits: bool
    evicted: tuple[int, ...] = ()  # pids of the agents that are no longer active then


def plan_call(active: ActiveSet, room: Room, wanted: Wanted, now: float) -> AdmissionPlan:
    """Decide whether a call may go to a core, and which idle agents give their places for it.

    A call of an active agent may use more room than one of a new agent, since its context is
    there already. If it does not fit even so, its agent is evicted, if idle. An agent alone on a
    core always fits, since only the core itself can decide about a call that is larger than its
    memory. Agents with calls on the core are never evicted.
    """
    own = active.agents.get(wanted.pid)
    limit = room.for_new if own is None else room.for_active
    excess = active.num_tokens + active.need(wanted.pid, wanted.group, wanted.num_tokens) - limit
    evicted: list[int] = []
    if excess > 0:
        for pid in _evictable(active, room, wanted, now):
            excess -= active.own_tokens(active.agents[pid])
            evicted.append(pid)
            if excess <= 0:
                break
    num_others = len(active.agents) - (own is not None) - len(evicted)
    if excess <= 0 or (num_others == 0 and (own is None or own.is_idle)):
        return AdmissionPlan(fits=True, evicted=tuple(evicted))
    is_put_out = own is not None and own.is_idle
    return AdmissionPlan(fits=False, evicted=(wanted.pid,) if is_put_out else ())


def next_expiry(active: ActiveSet, ttl_s: float, now: float) -> float | None:
    """Return when the next idle agent has outlived its time, in seconds; None if none will."""
    ends = [agent.left_at + ttl_s for agent in active.agents.values() if agent.is_idle]
    return min((end for end in ends if end > now), default=None)


def _evictable(active: ActiveSet, room: Room, wanted: Wanted, now: float) -> Iterator[int]:
    """Yield idle agents in order of eviction.

    Those that have outlived their time go first, the longest idle before the others. For a call
    of an active agent the other idle ones follow, the one with the least progress first, and the
    latest one among equals: so two agents can never evict each other in turn. For an agent that
    has waited extremely long all idle ones go, since busy agents may never outlive their time.
    """
    idle = [
        (pid, agent) for pid, agent in active.agents.items() if agent.is_idle and pid != wanted.pid
    ]
    idle.sort(key=lambda one: one[1].left_at)
    takes_all = wanted.waited_s > FORCED_FACTOR * room.overdue_s
    expired = [
        pid
        for pid, agent in idle
        if takes_all or agent.is_away or now - agent.left_at >= room.ttl_s
    ]
    yield from expired
    if (own := active.agents.get(wanted.pid)) is None:
        return
    order = {pid: place for place, pid in enumerate(active.agents)}
    gone = set(expired)
    rest = [(agent.num_turns, -order[pid], pid) for pid, agent in idle if pid not in gone]
    mine = (own.num_turns, -order[wanted.pid])
    for num_turns, place, pid in sorted(rest):
        if (num_turns, place) >= mine:
            return
        yield pid
