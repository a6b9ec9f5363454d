"""Gates before the simulated engine, to compare the kernel with: an oracle, and a peer's rule.

A gate holds back calls, so that the contexts of the agents that it lets through fit the KV
memory. The oracle knows what no scheduler knows: how much work is left for each agent. It
gives an upper bound of what ordering agents by a budget of tokens can reach.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from _simulated_loads import Plan
from _simulated_systems import Direct

from aios_core.syscalls import LLMGenerate
from aios_core.testing import SimulatedCore


@dataclass(eq=False)
class Agent:
    """An agent as a gate knows it."""

    pid: int
    plan: Plan
    num_done: int = 0  # turns
    context: int = 0  # tokens of its last call, or of the one that waits or runs
    idle_since: float | None = None  # None: it waits or runs
    waits: asyncio.Future[None] | None = None

    def work_left(self) -> int:
        """The work of the turns to come, in prompt tokens; a generated one counts as 20."""
        return sum(t.new_tokens + 20 * t.output_tokens for t in self.plan.turns[self.num_done :])


class Gate(ABC):
    """An engine behind a gate. Subclasses decide who is active."""

    def __init__(self, core: SimulatedCore) -> None:
        self._engine = Direct(core)
        self._pool = core.memory.capacity
        self._agents: dict[int, Agent] = {}
        self._active: dict[int, Agent] = {}

    async def start(self) -> None:
        await self._engine.start()

    async def join(self, plan: Plan, /) -> int:
        pid = await self._engine.join(plan)
        self._agents[pid] = Agent(pid, plan)
        return pid

    async def generate(self, pid: int, request: LLMGenerate, /) -> None:
        agent = self._agents[pid]
        turn = agent.plan.turns[agent.num_done]
        agent.context = int(request.extra["sim_prompt_tokens"]) + turn.output_tokens
        agent.idle_since = None
        if not self._returns(agent):
            agent.waits = admitted = asyncio.get_running_loop().create_future()
            self._pump()
            await admitted
        await self._engine.generate(pid, request)
        agent.num_done += 1
        agent.idle_since = self._now()
        self._pump()

    def exit(self, pid: int, /) -> None:
        self._active.pop(pid, None)
        self._pump()

    async def close(self) -> None:
        await self._engine.close()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _used(self) -> int:
        return sum(agent.context for agent in self._active.values())

    def _waiting(self) -> list[Agent]:
        return [agent for agent in self._agents.values() if agent.waits is not None]

    def _idle(self) -> list[Agent]:
        return [agent for agent in self._active.values() if agent.idle_since is not None]

    def _let_in(self, agent: Agent) -> None:
        self._active[agent.pid] = agent
        if agent.waits is not None and not agent.waits.done():
            agent.waits.set_result(None)
        agent.waits = None

    @abstractmethod
    def _returns(self, agent: Agent) -> bool:
        """Return whether the call of an agent passes at once."""

    @abstractmethod
    def _pump(self) -> None:
        """Let in who may go now."""


class Oracle(Gate):
    """The least work left first, within a budget of tokens, idle contexts kept for one TTL.

    The TTL is the time in which the engine could compute the whole KV memory again.
    """

    _FILL: Final = 0.90  # share of the KV memory for those let in
    _HIGHEST: Final = 1.0  # ... and while those inside grow

    def __init__(self, core: SimulatedCore) -> None:
        super().__init__(core)
        self._ttl_s = self._pool / core.costs.prefill_tokens_per_s
        self._timer: asyncio.TimerHandle | None = None

    def _returns(self, agent: Agent) -> bool:
        if agent.pid not in self._active:
            return False
        while self._used > self._HIGHEST * self._pool and (idle := self._idle()):
            del self._active[max(idle, key=Agent.work_left).pid]
        if self._used > self._HIGHEST * self._pool and len(self._active) > 1:
            del self._active[agent.pid]
            return False
        return True

    def _pump(self) -> None:
        waiting = sorted(self._waiting(), key=Agent.work_left)
        for agent in waiting:
            excess = self._used + agent.context - self._FILL * self._pool
            if excess > 0:
                excess -= self._drop_long_idle(excess)
            if excess > 0 and self._active:
                break
            self._let_in(agent)
        if self._waiting():
            self._wake_at_next_end_of_a_ttl()

    def _drop_long_idle(self, excess: float) -> int:
        dropped, now = 0, self._now()
        for agent in sorted(self._idle(), key=lambda agent: agent.idle_since or 0.0):
            if dropped >= excess or now - (agent.idle_since or 0.0) < self._ttl_s:
                break
            del self._active[agent.pid]
            dropped += agent.context
        return dropped

    def _wake_at_next_end_of_a_ttl(self) -> None:
        ends = [agent.idle_since + self._ttl_s for agent in self._idle() if agent.idle_since]
        ahead = [end for end in ends if end > self._now()]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ahead:
            self._timer = asyncio.get_running_loop().call_at(min(ahead) + 1e-3, self._pump)


class ThunderAgent(Gate):
    """The rule of ThunderAgent, as its source has it: every five seconds, pause and resume.

    Over the pool, programs that wait for a tool are paused, the smallest first, then running
    ones are marked. Resumed are returning programs before new ones, the smallest first.
    """

    _TICK_S: Final = 5.0
    _BUFFER: Final = 100  # tokens for each program

    def __init__(self, core: SimulatedCore) -> None:
        super().__init__(core)
        self._marked: set[int] = set()
        self._ticks: asyncio.TimerHandle | None = None

    @property
    def _taken(self) -> int:
        return self._used + self._BUFFER * len(self._active)

    def _returns(self, agent: Agent) -> bool:
        if agent.pid in self._active:
            return True
        fits = self._taken + agent.context + self._BUFFER <= self._pool
        if agent.num_done == 0 and not self._waiting() and fits:
            self._active[agent.pid] = agent
            return True
        return False

    def _pump(self) -> None:
        for pid in tuple(self._marked):
            agent = self._active.get(pid)
            if agent is None or agent.idle_since is not None:
                self._active.pop(pid, None)
                self._marked.discard(pid)
        if self._ticks is None and (self._waiting() or self._active):
            self._ticks = asyncio.get_running_loop().call_later(self._TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticks = None
        left = self._pool - self._taken
        for agent in sorted(self._waiting(), key=lambda a: (a.num_done == 0, a.context)):
            if agent.context + self._BUFFER <= left:
                left -= agent.context + self._BUFFER
                self._let_in(agent)
        self._pause_excess()
        self._pump()

    def _pause_excess(self) -> None:
        while True:
            marked = [self._active[pid] for pid in self._marked if pid in self._active]
            excess = self._taken - sum(agent.context + self._BUFFER for agent in marked)
            if excess <= self._pool:
                return
            if idle := self._idle():
                del self._active[min(idle, key=lambda agent: agent.context).pid]
                continue
            others = [agent for agent in self._active.values() if agent.pid not in self._marked]
            if not others:
                return
            self._marked.add(min(others, key=lambda agent: agent.context).pid)


GATES: Final[Mapping[str, Callable[[SimulatedCore], Gate]]] = {
    "oracle": Oracle,
    "ThunderAgent": ThunderAgent,
}
