"""Scheduling policies: who runs next, and for how long.

A policy is a frozen dataclass that gives pure answers about plain data. Its
fields are its settings. To add one, write a class with a `rank` (a few lines) and
pass an instance to `Kernel(policy=...)`, or register the class as an entry point of
the group `aios.policies`, which gives it a name in `aios.toml`. Ours are in `POLICIES`,
where the contract tests of ``tests/scheduler`` pick them up.

The mechanism is the same for all of them (see `scheduler`): the waiting call of
the smallest rank runs first. Each time that a running call has generated `quantum`
tokens it is ranked again, next to those that wait; if one of them ranks before
it, it is preempted and waits in its turn. Under a policy that `takes_turns` it is
ranked at the tail of the order of arrival. `interrupts` lets a waiting call take
the slot of a running one at once. A call that has waited longer than
`max_wait_s` goes before all calls that began to wait after it, so that nothing
starves: from then on it waits for no later call, only for those before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import log2
from typing import Final, Protocol

from aios_core.messages import Usage

Rank = tuple[float, ...]


class Share(Protocol):
    """Service that an agent or a group has received."""

    @property
    def service(self) -> float:
        """Weighted tokens since it was spawned: prompt tokens + 2 x generated tokens."""

    @property
    def virtual_time(self) -> float:
        """Service over weight, caught up when it was idle (start-time fair queueing)."""


class Waiting(Protocol):
    """A waiting call, as far as a policy may know it."""

    @property
    def seq(self) -> int:
        """Position in the order of arrival; a policy that takes turns renews it."""

    @property
    def queued_at(self) -> float:
        """When it began to wait, in seconds; renewed by a preemption."""

    @property
    def priority(self) -> int:
        """Smaller is more urgent."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, counted or else estimated; 0 for a call of a tool."""

    @property
    def expected_answer_tokens(self) -> int:
        """Tokens that the answer is expected to have, at most the call's limit; 0 for a tool.

        What nine of ten earlier answers to the agent, or else of the model, did not exceed. It
        stays what it was when first asked for, since a rank must not shrink while a call waits.
        """

    @property
    def deadline_at(self) -> float | None:
        """When the call fails unless it is answered, in seconds of the kernel's clock.

        None: never, or a call of a tool.
        """

    @property
    def model(self) -> str | None:
        """The model that serves the call; None for a call of a tool."""

    @property
    def agent(self) -> Share:
        """The agent that made the call."""

    @property
    def group(self) -> Share:
        """The group of that agent."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The state of the queue, for policies that adapt to it."""

    num_waiting: int  # calls
    num_slots: int
    num_groups: int  # that have agents which made calls


@dataclass(frozen=True, slots=True)
class Policy(ABC):
    """The questions that a scheduler asks."""

    quantum: int | None = None  # tokens before a running call is ranked again; None: never
    max_wait_s: float | None = None  # bound on being overtaken; None: the rank itself is fair
    takes_turns: bool = False  # a preempted call goes to the tail of the order of arrival
    warm_first: bool = False  # when memory is short, active agents go before new ones

    @abstractmethod
    def rank(self, call: Waiting) -> Rank:
        """Order of the waiting calls, smallest first. May only grow while a call waits."""

    def interrupts(self, waiting: Waiting, running: Waiting) -> bool:  # noqa: ARG002
        """Return whether a waiting call may interrupt a running one before its quantum ends."""
        return False

    def select(self, load: QueueLoad) -> Policy:  # noqa: ARG002 - for those made of others
        """The policy to use under this load; itself, unless it is made of others."""
        return self

    @property
    def name(self) -> str:
        """As in `POLICIES`, or the name of the class."""
        return next((n for n, p in POLICIES.items() if p is type(self)), type(self).__name__)


@dataclass(frozen=True, slots=True)
class FIFO(Policy):
    """First come, first served, each to completion."""

    warm_first: bool = True

    def rank(self, call: Waiting) -> Rank:
        return (call.seq,)


@dataclass(frozen=True, slots=True)
class RoundRobin(FIFO):
    """FIFO with a quantum: a preempted call rejoins at the tail."""

    quantum: int | None = 64
    takes_turns: bool = True


@dataclass(frozen=True, slots=True)
class Priority(Policy):
    """Most urgent first, with ageing; calls of equal priority in order of arrival.

    A call of priority p yields to one of priority q < p only if that one arrives
    within (p - q) x `ageing_s` seconds after it, so its wait is bounded.
    """

    quantum: int | None = 64
    ageing_s: float = 10.0  # waiting that long makes up for one step of priority

    def rank(self, call: Waiting) -> Rank:
        return (call.queued_at + call.priority * self.ageing_s, call.seq)


@dataclass(frozen=True, slots=True)
class Fair(Policy):
    """Weighted fair queueing by token cost, first among groups, then among their agents.

    Start-time fair queueing (Goyal et al., 1996) on the token cost of VTC (Sheng
    et al., OSDI 2024). A backlogged group's virtual time lags the others' by at
    most one call's prompt plus one quantum per slot, over its weight.
    """

    quantum: int | None = 64

    def rank(self, call: Waiting) -> Rank:
        return (call.group.virtual_time, call.agent.virtual_time, call.seq)

    def interrupts(self, waiting: Waiting, running: Waiting) -> bool:
        return waiting.group.virtual_time < running.group.virtual_time


@dataclass(frozen=True, slots=True)
class LAS(Policy):
    """Least attained service of the whole agent, in levels, so that short agents finish early.

    Levels double (Autellix, NSDI 2026): an agent is on level k once its service
    exceeds `level_tokens` x (2^k - 1). Within a level calls run in order of arrival.
    """

    quantum: int | None = 64
    max_wait_s: float | None = 30.0
    level_tokens: float = 512.0

    def rank(self, call: Waiting) -> Rank:
        return (int(log2(1 + call.agent.service / self.level_tokens)), call.seq)


@dataclass(frozen=True, slots=True)
class Auto(Policy):
    """Choose by load: protect groups from each other, else shorten the queue, else do not disturb.

    - agents of several groups are at work: `fair`, so that none starves another;
    - of one group, and more calls wait than there are slots: `las`, so that its short
      agents finish early;
    - otherwise `fifo`, since order hardly matters then and preemption only costs.

    A `quantum` or `max_wait_s` of its own takes the place of the chosen one's, if that has any.
    """

    fifo: Policy = field(default_factory=FIFO)
    fair: Policy = field(default_factory=Fair)
    las: Policy = field(default_factory=LAS)

    def rank(self, call: Waiting) -> Rank:
        return self.fifo.rank(call)

    def select(self, load: QueueLoad) -> Policy:
        if load.num_groups > 1:
            return self._tuned(self.fair)
        return self._tuned(self.las if load.num_waiting > load.num_slots else self.fifo)

    def _tuned(self, chosen: Policy) -> Policy:
        return replace(
            chosen,
            quantum=chosen.quantum and (self.quantum or chosen.quantum),
            max_wait_s=chosen.max_wait_s and (self.max_wait_s or chosen.max_wait_s),
        )


POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    "fifo": FIFO,
    "round_robin": RoundRobin,
    "priority": Priority,
    "fair": Fair,
    "las": LAS,
    "auto": Auto,
}


# --- service ---------------------------------------------------------------------------------
# How much service agents and groups have received.
#
# Service is counted in weighted tokens: prompt tokens + 2 x generated tokens (the
# virtual token counter of Sheng et al., OSDI 2024). `virtual_time` divides it by
# the weight and never falls behind those who stayed busy: a flow that was idle
# starts again where service stands now, so idleness earns no claim on the future.
#
# Both only grow. A call that turns out to have cost less than was charged leaves a
# credit, which its flow uses up first.

PROMPT_COST = 1.0
OUTPUT_COST = 2.0


@dataclass(slots=True, eq=False)
class FlowShare:
    """The service of one agent or one group. Satisfies `policy.Share`."""

    name: str
    weight: float = 1.0
    service: float = 0.0
    virtual_time: float = 0.0
    num_calls: int = 0  # waiting or running
    num_waiting: int = 0
    floor: float = 0.0  # virtual time of the member that was served last
    credit: float = 0.0
    num_members: int = 0  # of a group: its agents that made calls and live

    def enter(self, floor: float) -> None:
        """One more call. `floor` is where service stands among this flow's siblings."""
        if self.num_calls == 0 and self.virtual_time < floor:
            self.virtual_time = floor
        self.num_calls += 1

    def leave(self) -> None:
        """One call less."""
        self.num_calls -= 1

    def charge(self, cost: float) -> None:
        """Account for service; a negative cost becomes credit."""
        cost -= self.credit
        self.credit = max(0.0, -cost)
        if cost > 0:
            self.service += cost
            self.virtual_time += cost / self.weight


def service_of(usage: Usage) -> float:
    """The service that a call was, once it is known what it took."""
    return PROMPT_COST * usage.input_tokens + OUTPUT_COST * usage.output_tokens
