"""Budgets: reserved before a call runs, settled after it, never overspent.

An agent's account has limits of its own and counts against those of its parent
and of its group; a reservation is made on all of them or on none, so a family of
agents cannot spend more than the limit of its root, at any concurrency. Pure
bookkeeping: no clock, no lock (only the kernel's loop touches it, where `reserve_in_turn`
waits).

Invariant of every account and limited resource: spent + reserved <= limit. A
reservation can grow while what it is for runs, and is parked while that waits; what
was not reserved cannot be booked. A caller that finds too little unreserved, but enough
unspent, waits (`BudgetAccount.when_freed`) for others to settle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Final, TypeVar

from aios_core.errors import BudgetExceeded, KernelBug
from aios_core.messages import Usage, require_number

T = TypeVar("T", int, float)


RESOURCES: Final = ("tokens", "money", "calls")
_ROUNDING: Final = 1e-9  # of money, since sums of floats are not exact


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of everything that a budget limits."""

    tokens: int = 0  # prompt and answer
    money: float = 0.0  # in the currency of the configured prices
    calls: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.money + other.money, self.calls + other.calls)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.tokens - other.tokens, self.money - other.money, self.calls - other.calls)


NOTHING: Final = Cost()


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

    def cost(self) -> Cost:
        return Cost(self.tokens, self.money, self.calls)


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of what an agent and its descendants may spend together. None: no limit."""

    tokens: int | None = None
    money: float | None = None
    calls: int | None = None
    wall_s: float | None = None  # seconds from the agent's start; its calls end then

    @property
    def limits_calls(self) -> bool:
        """Whether a limit other than the wall time is set."""
        return not (self.tokens is None and self.money is None and self.calls is None)

    def __post_init__(self) -> None:
        for item in fields(self):
            require_number(f"budget {item.name}", getattr(self, item.name), at_least=0)


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model, in any one currency."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0
    cached_input_per_million: float | None = None  # read from a cache; None: as other input
    cache_write_per_million: float | None = None  # written to a cache; None: as other input

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Return the most that so many tokens can cost, with all input of the dearest kind."""
        return (input_tokens * self._dearest_input + output_tokens * self.output_per_million) / 1e6

    def of_usage(self, usage: Usage) -> float:
        """Return the cost of a call by the usage that was reported."""
        read, written = usage.cached_tokens, usage.cache_write_tokens
        full = usage.input_tokens - read - written
        parts = (
            full * self.input_per_million,
            read * self._rate(self.cached_input_per_million),
            written * self._rate(self.cache_write_per_million),
            usage.output_tokens * self.output_per_million,
        )
        return sum(parts) / 1e6

    @property
    def _dearest_input(self) -> float:
        return max(self.input_per_million, self._rate(self.cache_write_per_million))

    def _rate(self, rate: float | None) -> float:
        return self.input_per_million if rate is None else rate

    def affordable(self, money: float | None, input_tokens: int, output_tokens: int) -> int:
        """Return how many of the output tokens `money` pays for, at least one. None: no limit."""
        if money is None or self.of(input_tokens, output_tokens) <= money:
            return output_tokens
        if self.of(input_tokens, 1) > money:
            return 1
        paid = int((money - self.of(input_tokens, 0)) * 1e6 / self.output_per_million)
        while paid > 1 and self.of(input_tokens, paid) > money:  # a rounding error, once
            paid -= 1
        return max(1, paid)


FREE: Final = Price()


class BudgetAccount:
    """The books of one agent (or group), within those of its parents.

    `chain` is this account and all that its costs count against as well, each once;
    `limited` names the resources that any of them limits.
    """

    __slots__ = ("_waiting", "chain", "limited", "limits", "owner", "reserved", "spent")

    def __init__(self, owner: str, limits: Budget | None = None, *parents: BudgetAccount) -> None:
        self.owner = owner
        self.limits = limits or Budget()
        self.spent = Tally()
        self.reserved = Tally()
        above = (account for parent in parents for account in parent.chain)
        self.chain: tuple[BudgetAccount, ...] = (self, *dict.fromkeys(above))
        self.limited = frozenset(
            resource
            for account in self.chain
            for resource in RESOURCES
            if getattr(account.limits, resource) is not None
        )
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<BudgetAccount {self.owner}: spent {self.spent}, reserved {self.reserved}>"

    @property
    def is_limited(self) -> bool:
        """Whether any account of the chain limits what a call costs."""
        return bool(self.limited)

    def tokens_left(self) -> int | None:
        """Tokens that may still be reserved on the whole chain; None if unlimited."""
        return self._least("tokens", lambda account: account.spent.tokens + account.reserved.tokens)

    def tokens_unspent(self) -> int | None:
        """Tokens of the whole chain that are not spent, but may be reserved; None if unlimited."""
        return self._least("tokens", lambda account: account.spent.tokens)

    def money_left(self) -> float | None:
        """Money that may still be reserved on the whole chain; None if unlimited."""
        return self._least("money", lambda account: account.spent.money + account.reserved.money)

    def money_unspent(self) -> float | None:
        """Money of the whole chain that is not spent, but may be reserved; None if unlimited."""
        return self._least("money", lambda account: account.spent.money)

    def calls_left(self) -> int | None:
        """Calls that may still be reserved on the whole chain; None if unlimited."""
        return self._least("calls", lambda account: account.spent.calls + account.reserved.calls)

    def reserve(self, amount: Cost) -> Reservation:
        """Set `amount` aside on the whole chain.

        Raises:
            BudgetExceeded: an account of the chain has less than that left. Nothing is reserved.
        """
        reservation = Reservation(self)
        reservation.grow(amount)
        return reservation

    def require_unspent(self, amount: Cost) -> None:
        """Raise `BudgetExceeded` if `amount` exceeds what the chain has unspent."""
        for account in self.chain if self.limited else ():
            if resource := account._lacks(amount, account.spent.cost()):  # noqa: SLF001 - its kind
                raise account._refusal(amount, resource)  # noqa: SLF001

    def blocker(self, amount: Cost) -> BudgetAccount | None:
        """The first account of the chain that has less than `amount` unreserved; None if all do."""
        for account in self.chain if self.limited else ():
            if account._lacks(amount, account._committed()):  # noqa: SLF001 - its kind
                return account
        return None

    def refusal(self, amount: Cost) -> BudgetExceeded:
        """The error for a cost that this account has too little unreserved for."""
        return self._refusal(amount, self._lacks(amount, self._committed()) or RESOURCES[0])

    def when_freed(self, callback: Callable[[], None]) -> None:
        """Call back once, when a reservation on this account has been settled or parked."""
        self._waiting.append(callback)

    def book(self, reserved: Cost, spent: Cost) -> None:
        """Count as spent what was, instead of what was set aside for it."""
        held, books = self.reserved, self.spent
        held.tokens -= reserved.tokens
        held.money -= reserved.money
        held.calls -= reserved.calls
        books.tokens += spent.tokens
        books.money += spent.money
        books.calls += spent.calls

    def freed(self) -> None:
        """Notify all that wait that less may be reserved now."""
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def check(self) -> None:
        """Raise `KernelBug` if a reservation was given back twice, or a limit is overrun."""
        if min(self.reserved.tokens, self.reserved.calls) < 0 or self.reserved.money < -1e-9:
            raise KernelBug(f"{self.owner} has a negative reservation: {self.reserved}")
        if resource := self._lacks(Cost(), self._committed()):
            raise KernelBug(f"{self.owner} overran its {resource}: {self!r} of {self.limits}")

    def _committed(self) -> Cost:
        return self.spent.cost() + self.reserved.cost()

    def _lacks(self, amount: Cost, committed: Cost) -> str | None:
        """The resource of this account alone that `amount` exceeds on top of `committed`."""
        for resource in self.limited:
            limit = getattr(self.limits, resource)
            if limit is None:
                continue
            wanted = getattr(committed, resource) + getattr(amount, resource)
            if wanted > limit + (_ROUNDING * max(1.0, limit) if resource == "money" else 0):
                return resource
        return None

    def _refusal(self, amount: Cost, resource: str) -> BudgetExceeded:
        return BudgetExceeded(
            self.owner,
            resource,
            getattr(self.limits, resource),
            spent=getattr(self.spent, resource),
            requested=getattr(amount, resource),
            reserved=getattr(self.reserved, resource),
        )

    def _least(self, resource: str, used: Callable[[BudgetAccount], T]) -> T | None:
        """The least that the limits of the chain leave of a resource, but not below 0."""
        if resource not in self.limited:
            return None
        left = [
            getattr(account.limits, resource) - used(account)
            for account in self.chain
            if getattr(account.limits, resource) is not None
        ]
        return max(0, min(left))  # type: ignore[no-any-return]


class Reservation:
    """An amount set aside on an account, until `settle` replaces it with the real cost.

    It can `grow`, and be parked while its call does not run: then only the amount spent counts.
    """

    __slots__ = ("_account", "_is_open", "amount", "booked")

    def __init__(self, account: BudgetAccount) -> None:
        self._account = account
        self.booked = NOTHING  # counted as spent already
        self._is_open = True
        self.amount = NOTHING  # set aside now

    def __repr__(self) -> str:
        return f"<Reservation of {self._account.owner}: {self.amount}, booked {self.booked}>"

    def grow(self, more: Cost) -> None:
        """Set more aside. Raises `BudgetExceeded`, and changes nothing then."""
        account = self._account
        if account.limited and (blocker := account.blocker(more)) is not None:
            raise blocker.refusal(more)
        for one in account.chain:
            one.reserved.add(more)
        self.amount = more if self.amount is NOTHING else self.amount + more

    def park(self, so_far: Cost) -> Cost:
        """Book what was spent so far and set nothing aside. Returns what could not be booked."""
        if not self._is_open:
            return NOTHING
        more = so_far if self.booked is NOTHING else so_far - self.booked
        uncovered = self._uncovered(more) if self._account.limited else NOTHING
        if uncovered is not NOTHING:
            more -= uncovered
        for account in self._account.chain:
            account.book(self.amount, more)
        self.amount = NOTHING
        self.booked += more
        for account in self._account.chain:
            if account._waiting:  # noqa: SLF001 - its kind
                account.freed()
        return uncovered

    def settle(self, actual: Cost) -> Cost:
        """Give back what is set aside and book the true cost. A second call changes nothing.

        A cost beyond both the reservation and the budget is not booked but returned: a backend
        used more than it was allowed to.
        """
        uncovered = self.park(actual)
        self._is_open = False
        return uncovered

    def _uncovered(self, more: Cost) -> Cost:
        """Return the part of a cost that neither the reservation nor the limits cover."""
        account = self._account
        excess = more - self.amount
        tokens, money, calls = 0, 0.0, 0
        if "tokens" in account.limited:
            tokens = max(0, excess.tokens - (account.tokens_left() or 0))
        if "money" in account.limited:
            money = max(0.0, excess.money - (account.money_left() or 0.0))
        if "calls" in account.limited:
            calls = max(0, excess.calls - (account.calls_left() or 0))
        return Cost(tokens, money, calls)


async def reserve_in_turn(account: BudgetAccount, amount: Cost) -> Reservation:
    """Set `amount` aside as soon as others have given back enough of what is unspent.

    Raises:
        BudgetExceeded: it exceeds what is unspent.
    """
    while (blocker := account.blocker(amount)) is not None:
        account.require_unspent(amount)
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        blocker.when_freed(partial(_wake, freed))
        await freed
    return account.reserve(amount)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
