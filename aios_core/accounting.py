"""Counters of what agents and groups have used, and what is left of their budgets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Self

from aios_core.budget import Budget, BudgetAccount, Cost
from aios_core.messages import Usage


@dataclass(slots=True)
class Accounting:
    """The usage of one agent so far."""

    usage: Usage = field(default_factory=Usage)
    money: float = 0.0  # in the currency of the configured prices
    num_calls: int = 0
    num_requests: Counter[str] = field(default_factory=Counter)  # by kind; LLM calls not counted
    num_embedded: int = 0  # texts that it had turned into vectors
    num_failed: int = 0
    num_preemptions: int = 0
    running_s: float = 0.0  # its calls held a slot of a core
    waiting_s: float = 0.0  # its calls waited for one

    def add(self, other: Accounting) -> None:
        """Add the counters of another agent to these."""
        for counter in fields(self):
            mine, more = getattr(self, counter.name), getattr(other, counter.name)
            setattr(self, counter.name, mine + more)

    @classmethod
    def sum_of(cls, parts: Iterable[Accounting]) -> Self:
        """Return new counters with the sum of the given ones."""
        total = cls()
        for part in parts:
            total.add(part)
        return total


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget at one moment: what it allows, what is spent and reserved, and what is left.

    `spent` and `reserved` include all agents that share the budget: those below an agent, or the
    members of a group. In `left`, None means no limit; for an agent it is the least that its own
    budget, those of its parents and that of its group leave.
    """

    limits: Budget
    spent: Cost
    reserved: Cost  # by calls in flight; what they do not use comes back
    left: Budget

    @classmethod
    def of(cls, account: BudgetAccount, *, wall_left_s: float | None = None) -> Self:
        """Return the status of an account.

        Args:
            account: of an agent or a group.
            wall_left_s: seconds until its time is up; None: no limit.
        """
        left = Budget(
            tokens=account.tokens_left(),
            money=account.money_left(),
            calls=account.calls_left(),
            wall_s=None if wall_left_s is None else max(0.0, wall_left_s),
        )
        return cls(account.limits, account.spent.cost(), account.reserved.cost(), left)


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group at one moment: its share, its budget and what its agents used."""

    name: str
    weight: float
    num_agents: int  # alive
    budget: BudgetStatus
    accounting: Accounting  # of all its agents, those that have exited included
