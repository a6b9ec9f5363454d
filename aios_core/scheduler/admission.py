"""Decide which agents are active on a core, so that their contexts fit its KV memory.

This is the first of two levels of scheduling (the medium-term scheduler of operating systems). An
engine with a full memory drops the contexts of agents that wait for a tool, and computes them
again at their next calls; with many agents it computes little else (thrashing). So only as many
agents are active as fit. An active agent's call goes at once, because its context is there. A
new agent is admitted once there is room for its context. An idle agent keeps its room for as long
as that is cheaper than computing its context again (`pool_learning`), and then gives it to one
that waits; until then, an evicted agent waits as a new one does.

On a core with KV images, idle contexts do not count: they are moved to the host and back at
small cost. On other cores they are useful only where they are, so they count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from statistics import fmean
from typing import Final

from aios_core.core import Core, CoreLoad, load_of
from aios_core.messages import Usage
from aios_core.scheduler.active_set import (
    ActiveAgent,
    ActiveSet,
    AdmissionPlan,
    Room,
    Wanted,
    next_expiry,
    plan_call,
)
from aios_core.scheduler.pool_learning import MARGIN, PoolLearning

OVERDUE_FACTOR: Final = 3.0  # an agent that waits so many times the mean wait goes next
OVERDUE_TTLS: Final = 10.0  # ... but not before so many times the time to live
_KEPT_WAITS: Final = 32
PRESSED = 0.5  # share of KV memory promised above which warm contexts go first


class _Pool:
    """The KV memory of one core."""

    def __init__(self, fixed_ttl_s: float | None) -> None:
        self.active = ActiveSet()
        self.learning = PoolLearning(fixed_ttl_s)
        self.turns: dict[int, int] = {}  # by pid: calls that have ended, also of evicted agents
        self.waits_s: deque[float] = deque(maxlen=_KEPT_WAITS)  # of agents before their admission

    def room(self, load: CoreLoad) -> Room:
        capacity, share = load.kv_capacity or 0, self.learning.share
        ttl_s = self.learning.ttl_s(capacity, load.prefill_rate)
        mean_wait_s = fmean(self.waits_s) if self.waits_s else 0.0
        return Room(
            int(share * capacity),
            int(min(1.0, share + MARGIN) * capacity),
            ttl_s,
            max(OVERDUE_FACTOR * mean_wait_s, OVERDUE_TTLS * ttl_s),
        )


class AdmissionController:
    """The active agents of every core, and the decision whether one more fits.

    `is_active`, `is_pressed`, `plan` and `next_expiry` change nothing.

    Args:
        ttl_s: for how long an idle agent keeps its room, in seconds; None: measured for each core.
    """

    def __init__(self, ttl_s: float | None = None) -> None:
        self._ttl_s = ttl_s
        self._pools: dict[Core, _Pool] = {}
        self.has_any = False  # an agent was active; never true if no core reports its memory

    def is_active(self, core: Core, pid: int) -> bool:
        """Return whether the agent's context is, or is about to be, on the core."""
        pool = self._pools.get(core)
        return pool is not None and pid in pool.active.agents

    def is_pressed(self, core: Core, load: CoreLoad) -> bool:
        """Return whether the active contexts need more than `PRESSED` of the core's memory."""
        pool = self._pools.get(core)
        if pool is None or load.kv_capacity is None:
            return False
        return pool.active.num_tokens > PRESSED * load.kv_capacity

    def is_short(self, cores: Iterable[Core]) -> bool:
        """Return whether contexts fill the memory of one of the cores, and cannot be moved."""
        return self.has_any and any(
            not core.capabilities.kv_snapshots and self.is_pressed(core, load_of(core))
            for core in cores
        )

    def plan(self, core: Core, load: CoreLoad, wanted: Wanted, now: float) -> AdmissionPlan:
        """Decide whether a call may go to the core (see `active_set.plan_call`)."""
        if load.kv_capacity is None:
            return AdmissionPlan(fits=True)
        pool = self._pools.get(core) or _Pool(self._ttl_s)
        return plan_call(pool.active, pool.room(load), wanted, now)

    def apply(self, core: Core, plan: AdmissionPlan) -> None:
        """Evict the agents of a plan."""
        for pid in plan.evicted:
            self._pools[core].active.agents.pop(pid, None)

    def overdue_s(self, core: Core, load: CoreLoad) -> float:
        """Return the wait after which an agent goes before those of better rank, in seconds."""
        pool = self._pools.get(core)
        return inf if pool is None or load.kv_capacity is None else pool.room(load).overdue_s

    def next_expiry(self, core: Core, load: CoreLoad, now: float) -> float | None:
        """Return when an idle agent of the core has outlived its time, in the kernel's seconds."""
        pool = self._pools.get(core)
        if pool is None or load.kv_capacity is None:
            return None
        return next_expiry(pool.active, pool.room(load).ttl_s, now)

    def admit(self, core: Core, load: CoreLoad, wanted: Wanted) -> int:
        """Count a call that starts on the core. Returns the tokens that its agent left there."""
        if load.kv_capacity is None:
            return 0
        self.has_any = True
        pool = self._pools.get(core)
        if pool is None:
            pool = self._pools[core] = _Pool(self._ttl_s)
        pool.learning.look_at_preemptions(load.num_engine_preemptions)
        agent = pool.active.agents.get(wanted.pid)
        if agent is None:
            num_turns = pool.turns.get(wanted.pid, 0)
            agent = ActiveAgent(wanted.group, num_turns=num_turns)
            pool.waits_s.append(wanted.waited_s)
            pool.active.agents[wanted.pid] = agent
        agent.in_calls += wanted.num_tokens
        agent.num_calls += 1
        agent.is_away = False
        return agent.context

    def release(self, core: Core, wanted: Wanted, num_tokens: int, now: float) -> None:
        """Count the end of a call of the core; its context of `num_tokens` stays for a while."""
        pool = self._pools.get(core)
        if pool is None or (agent := pool.active.agents.get(wanted.pid)) is None:
            return
        agent.in_calls = max(0, agent.in_calls - wanted.num_tokens)
        agent.num_calls -= 1
        agent.num_turns += 1
        pool.turns[wanted.pid] = agent.num_turns
        agent.left_at = now
        agent.context = 0 if core.capabilities.kv_snapshots else num_tokens

    def leave_for_tool(self, core: Core, pid: int, usual_s: float) -> None:
        """Note that an agent waits for a tool that usually takes `usual_s` seconds."""
        pool = self._pools.get(core)
        if pool is None or (agent := pool.active.agents.get(pid)) is None:
            return
        agent.is_away = usual_s > pool.room(load_of(core)).ttl_s

    def learn(
        self,
        core: Core,
        pid: int,
        usage: Usage,
        *,
        warm_tokens: int,
        first_token_s: float | None,
        calls_wait: bool,
    ) -> None:
        """Learn from an answer: the prefill rate, what a group shares, and what was kept."""
        pool = self._pools.get(core)
        if pool is None or usage.is_estimated:
            return
        if warm_tokens:
            pool.learning.answered(warm_tokens, usage.cached_tokens, calls_wait=calls_wait)
        elif first_token_s is not None:
            pool.learning.measure_prefill(usage.input_tokens - usage.cached_tokens, first_token_s)
        if pool.turns.get(pid, 0) <= 1 and not warm_tokens:  # nothing else of its own was cached
            self._learn_shared(pool.active, pid, usage.cached_tokens)

    def _learn_shared(self, active: ActiveSet, pid: int, cached_tokens: int) -> None:
        """Learn what the first prompt of an agent had in common with those of its group."""
        if (agent := active.agents.get(pid)) is None:
            return
        known = active.shared.get(agent.group, 0)
        active.shared[agent.group] = min(known, cached_tokens) if known else cached_tokens

    def forget(self, pid: int) -> None:
        """Drop the contexts of an agent that exited."""
        for pool in self._pools.values():
            pool.active.agents.pop(pid, None)
            pool.turns.pop(pid, None)
