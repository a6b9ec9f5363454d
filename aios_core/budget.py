"""Budgets: reserved before a call, settled after it, never overspent.

An agent's account has limits of its own and counts against those of its parent
and of its group; a reservation is made on all of them or on none, so a family of
agents cannot spend more than its head was given, whatever the concurrency. Pure
bookkeeping: no clock, no lock (only the kernel's loop touches it).

Invariant of every account and resource: spent + reserved <= limit, as long as
no call costs more than was reserved for it. What a core takes beyond that is
booked all the same (the truth, not the wish) and leaves less for the next call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from aios_core.errors import BudgetExceeded, KernelBug
from aios_core.messages import require_number


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of everything that a budget limits."""

    tokens: int = 0  # prompt and answer
    money: float = 0.0  # in the currency of the configured prices
    calls: int = 0


@dataclass(slots=True)
class Tally:
    """A running sum of costs."""

    tokens: int = 0
    money: float = 0.0
    calls: int = 0

    def add(self, cost: Cost) -> None:
        self.tokens += cost.tokens
        self.money += cost.money
        self.calls += cost.calls

    def take(self, cost: Cost) -> None:
        self.tokens -= cost.tokens
        self.money -= cost.money
        self.calls -= cost.calls

    def cost(self) -> Cost:
        return Cost(self.tokens, self.money, self.calls)


@dataclass(frozen=True, slots=True)
class Budget:
    """What an agent and its children together may spend. None: no limit."""

    tokens: int | None = None
    money: float | None = None
    calls: int | None = None
    wall_s: float | None = None  # seconds from the agent's start; its calls end then

    @property
    def limits_calls(self) -> bool:
        """Whether anything but the wall time is limited."""
        return not (self.tokens is None and self.money is None and self.calls is None)

    def __post_init__(self) -> None:
        for item in fields(self):
            require_number(f"budget {item.name}", getattr(self, item.name), at_least=0)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in any one currency."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (
            input_tokens * self.input_per_million + output_tokens * self.output_per_million
        ) / 1e6

    def affordable(self, money: float | None, input_tokens: int, output_tokens: int) -> int:
        """As many of the output tokens as `money` pays for, but at least one. None: no limit."""
        if money is None or self.of(input_tokens, output_tokens) <= money:
            return output_tokens
        if self.of(input_tokens, 1) > money:
            return 1
        paid = int((money - self.of(input_tokens, 0)) * 1e6 / self.output_per_million)
        while paid > 1 and self.of(input_tokens, paid) > money:  # a rounding error, once
            paid -= 1
        return max(1, paid)


class BudgetAccount:
    """The books of one agent (or group), within those of its parents.

    `chain` is this account and all that its costs count against as well, each once;
    `is_limited` says whether any of them limits what a call costs.
    """

    __slots__ = ("chain", "is_limited", "limits", "owner", "reserved", "spent")

    def __init__(self, owner: str, limits: Budget | None = None, *parents: BudgetAccount) -> None:
        self.owner = owner
        self.limits = limits or Budget()
        self.spent = Tally()
        self.reserved = Tally()
        above = (account for parent in parents for account in parent.chain)
        self.chain: tuple[BudgetAccount, ...] = (self, *dict.fromkeys(above))
        self.is_limited = any(account.limits.limits_calls for account in self.chain)

    def __repr__(self) -> str:
        return f"<BudgetAccount {self.owner}: spent {self.spent}, reserved {self.reserved}>"

    def tokens_left(self) -> int | None:
        """Tokens that may still be reserved on the whole chain; None if unlimited."""
        left = [
            account.limits.tokens - account.spent.tokens - account.reserved.tokens
            for account in self.chain
            if account.limits.tokens is not None
        ]
        return max(0, min(left)) if left else None

    def money_left(self) -> float | None:
        """Money that may still be reserved on the whole chain; None if unlimited."""
        left = [
            account.limits.money - account.spent.money - account.reserved.money
            for account in self.chain
            if account.limits.money is not None
        ]
        return max(0.0, min(left)) if left else None

    def reserve(self, amount: Cost) -> Reservation:
        """Set `amount` aside on the whole chain.

        Raises:
            BudgetExceeded: an account of the chain has less than that left. Nothing is reserved.
        """
        if self.is_limited:
            for account in self.chain:
                account.refuse_excess(amount)
        for account in self.chain:
            account.reserved.add(amount)
        return Reservation(self, amount)

    def refuse_excess(self, amount: Cost) -> None:
        """Raise `BudgetExceeded` if this account alone cannot bear `amount` more."""
        for resource in ("tokens", "money", "calls"):
            limit = getattr(self.limits, resource)
            if limit is None:
                continue
            committed = getattr(self.spent, resource) + getattr(self.reserved, resource)
            requested = getattr(amount, resource)
            if committed + requested > limit:
                raise BudgetExceeded(self.owner, resource, limit, committed, requested)

    def check(self) -> None:
        """Raise `KernelBug` if a reservation was given back twice."""
        if min(self.reserved.tokens, self.reserved.calls) < 0 or self.reserved.money < -1e-9:
            raise KernelBug(f"{self.owner} has a negative reservation: {self.reserved}")


class Reservation:
    """Something set aside on an account, until `settle` says what it really cost."""

    __slots__ = ("_account", "_amount", "_is_open")

    def __init__(self, account: BudgetAccount, amount: Cost) -> None:
        self._account = account
        self._amount = amount
        self._is_open = True

    def settle(self, actual: Cost) -> None:
        """Give back the reservation and book the true cost. A second call changes nothing."""
        if not self._is_open:
            return
        self._is_open = False
        for account in self._account.chain:
            account.reserved.take(self._amount)
            account.spent.add(actual)
