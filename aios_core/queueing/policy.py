"""Scheduling policies, which decide the order of calls, and for how long each may run.

A policy is a frozen dataclass without state: its fields are its settings, and its methods
compute from plain data. To add one, write a class with a `rank` (a few lines) and pass an
instance to `Kernel(policy=...)`, or register the class as an entry point of the group
`aios.policies`, which gives it a name in `aios.toml`. `POLICIES` lists the bundled ones;
the contract tests in ``tests/scheduler`` run for all of them.

One mechanism serves all policies. The waiting call of the smallest rank runs first. Each
time that a running call has generated `quantum` tokens, it is ranked again together with
the waiting calls; if one of them ranks before it, it is preempted and waits. Under a
policy that `takes_turns`, it is ranked at the tail of the order of arrival. `interrupts`
allows a waiting call to take the slot of a running one at once. A call that has waited
longer than `max_wait_s` goes before all calls that came after it, so that no call starves.
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
    """The service that an agent or a group has received."""

    @property
    def seq(self) -> int:
        """Position in the order in which agents, or groups, made their first calls."""

    @property
    def service(self) -> float:
        """Weighted tokens since it was spawned: prompt tokens + 2 x generated tokens."""

    @property
    def virtual_time(self) -> float:
        """Service divided by weight, advanced after idle times (start-time fair queueing)."""


class WaitingCall(Protocol):
    """The properties of a waiting call that a policy can use."""

    @property
    def seq(self) -> int:
        """Position in the order of arrival; a policy that takes turns renews it."""

    @property
    def queued_at(self) -> float:
        """When the call started to wait, in seconds; renewed by a preemption."""

    @property
    def priority(self) -> int:
        """The call's priority; a smaller number is more urgent."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, counted or estimated; 0 for a tool call."""

    @property
    def context_tokens(self) -> int:
        """Tokens of the agent's context with this prompt; 0 for a tool call.

        Exact for what the agent's last call had, estimated for what is new. The value is fixed
        while the call waits.
        """

    @property
    def expected_answer_tokens(self) -> int:
        """Expected tokens of the answer, at most the call's limit; 0 for a tool call.

        The 90th percentile of the agent's earlier answers, or else of the model's. The value is
        fixed when it is first read, since a rank must not shrink while a call waits.
        """

    @property
    def deadline_at(self) -> float | None:
        """The deadline of the call, in seconds of the kernel's clock.

        None: there is no deadline, or it is a tool call.
        """

    @property
    def model(self) -> str | None:
        """The model that serves the call; None for a tool call."""

    @property
    def agent(self) -> Share:
        """The service of the agent that made the call."""

    @property
    def group(self) -> Share:
        """The service of the agent's group."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The state of the queue, for policies that adapt to it."""

    num_waiting: int  # calls
    num_slots: int
    num_groups: int  # groups with agents that made calls


@dataclass(frozen=True, slots=True)
class Policy(ABC):
    """The base class of scheduling policies."""

    quantum: int | None = None  # tokens before a running call is ranked again; None: never
    max_wait_s: float | None = None  # bound on being overtaken; None: the rank itself is fair
    takes_turns: bool = False  # a preempted call goes to the tail of the order of arrival
    warm_first: bool = False  # when memory is short, active agents go before new ones

    @abstractmethod
    def rank(self, call: WaitingCall) -> Rank:
        """Return the rank of a call; the smallest runs first. It may only grow while it waits."""

    def admission_rank(self, call: WaitingCall) -> Rank:
        """Rank an agent by its waiting call, when not all contexts fit a core's memory.

        The agent of the smallest rank becomes active first: its context gets memory, and its next
        calls start at once. The rank may only grow while the call waits.
        """
        return self.rank(call)

    def interrupts(self, waiting: WaitingCall, running: WaitingCall) -> bool:  # noqa: ARG002
        """Return whether a waiting call may interrupt a running one before its quantum ends."""
        return False

    def select(self, load: QueueLoad) -> Policy:  # noqa: ARG002 - for policies made of others
        """Return the policy to use under this load; an adaptive policy returns one of several."""
        return self

    @property
    def name(self) -> str:
        """The name in `POLICIES`, or the name of the class."""
        return next((n for n, p in POLICIES.items() if p is type(self)), type(self).__name__)


@dataclass(frozen=True, slots=True)
class FIFO(Policy):
    """First come, first served, without preemption."""

    warm_first: bool = True

    def rank(self, call: WaitingCall) -> Rank:
        return (call.seq,)

    def admission_rank(self, call: WaitingCall) -> Rank:
        return (call.agent.seq, call.seq)


@dataclass(frozen=True, slots=True)
class RoundRobin(FIFO):
    """FIFO with a quantum: a preempted call rejoins at the tail.

    The quantum is longer than most answers: a shorter one helps the median call, and makes one
    call of ten wait a third longer.
    """

    quantum: int | None = 256
    takes_turns: bool = True


@dataclass(frozen=True, slots=True)
class Priority(Policy):
    """Most urgent first, with aging; calls of equal priority in order of arrival.

    A call of priority p yields to one of priority q < p only if that one arrives
    within (p - q) x `aging_s` seconds after it, so its wait is bounded.
    """

    quantum: int | None = 64
    aging_s: float = 10.0  # waiting that long makes up for one step of priority

    def rank(self, call: WaitingCall) -> Rank:
        return (call.queued_at + call.priority * self.aging_s, call.seq)

    def admission_rank(self, call: WaitingCall) -> Rank:
        return (call.priority, call.context_tokens, call.seq)


@dataclass(frozen=True, slots=True)
class Fair(Policy):
    """Weighted fair queueing by token cost, first among groups, then among their agents.

    Start-time fair queueing (Goyal et al., 1996) on the token cost of VTC (Sheng
    et al., OSDI 2024). A backlogged group's virtual time lags the others' by at
    most one call's prompt plus one quantum per slot, over its weight.
    """

    quantum: int | None = 64

    def rank(self, call: WaitingCall) -> Rank:
        return (call.group.virtual_time, call.agent.virtual_time, call.seq)

    def admission_rank(self, call: WaitingCall) -> Rank:
        return (call.group.virtual_time, call.context_tokens, call.seq)

    def interrupts(self, waiting: WaitingCall, running: WaitingCall) -> bool:
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

    def rank(self, call: WaitingCall) -> Rank:
        return (self._level(call), call.seq)

    def admission_rank(self, call: WaitingCall) -> Rank:
        return (self._level(call), call.agent.seq, call.seq)

    def _level(self, call: WaitingCall) -> int:
        return int(log2(1 + call.agent.service / self.level_tokens))


@dataclass(frozen=True, slots=True)
class Auto(Policy):
    """Choose among `fair`, `las` and `fifo` by load.

    - agents of several groups make calls: `fair`, so that no group starves another;
    - agents of one group, and more calls wait than there are slots: `las`, so that short
      agents finish early;
    - otherwise `fifo`, since order hardly matters then and preemption has a cost.

    Its own `quantum` and `max_wait_s` replace those of the chosen policy, if that has them.
    """

    fifo: Policy = field(default_factory=FIFO)
    fair: Policy = field(default_factory=Fair)
    las: Policy = field(default_factory=LAS)

    def rank(self, call: WaitingCall) -> Rank:
        return self.fifo.rank(call)

    def admission_rank(self, call: WaitingCall) -> Rank:
        return (call.priority, call.group.virtual_time, call.context_tokens, call.seq)

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
# virtual token counter of Sheng et al., OSDI 2024). `virtual_time` is service divided
# by weight. A flow that was idle starts again at the virtual time of the busy ones;
# otherwise it could claim all the service that it missed.
#
# Both only grow. A call that cost less than was charged leaves a credit, which its flow
# uses first.

PROMPT_COST = 1.0
OUTPUT_COST = 2.0


@dataclass(slots=True, eq=False)
class FlowShare:
    """The service of one agent or one group. Implements `Share`."""

    name: str
    weight: float = 1.0
    service: float = 0.0
    virtual_time: float = 0.0
    num_calls: int = 0  # waiting or running
    num_waiting: int = 0
    floor: float = 0.0  # virtual time of the member that was served last
    credit: float = 0.0
    num_members: int = 0  # of a group: its live agents that made calls
    seq: int = 0  # position in the order of first calls

    def enter(self, floor: float) -> None:
        """Count one more call. `floor` is the virtual time of this flow's busy siblings."""
        if self.num_calls == 0 and self.virtual_time < floor:
            self.virtual_time = floor
        self.num_calls += 1

    def leave(self) -> None:
        """Count one call less."""
        self.num_calls -= 1

    def charge(self, cost: float) -> None:
        """Charge service; a negative cost becomes credit."""
        cost -= self.credit
        self.credit = max(0.0, -cost)
        if cost > 0:
            self.service += cost
            self.virtual_time += cost / self.weight


def service_of(usage: Usage) -> float:
    """Return the service of a call from its usage."""
    return PROMPT_COST * usage.input_tokens + OUTPUT_COST * usage.output_tokens
