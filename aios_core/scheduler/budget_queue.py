"""Calls that wait for money or tokens, in the order of the scheduling policy.

A call waits for the budget account that has too little unreserved. When a reservation on that
account is settled or reduced, the best-ranked calls that fit are woken. Calls ranked behind one
that does not fit continue to wait, since small calls would starve it otherwise.

Invariant (see `check`): an account with a waiting call has a reservation that will be settled, or
is marked as freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from aios_core.budget import BudgetAccount, Cost
from aios_core.errors import BudgetExceeded, KernelBug
from aios_core.queueing.policy import Rank
from aios_core.queueing.ranked_queue import RankedQueue
from aios_core.scheduler.call import Call
from aios_core.scheduler.waiting_calls import Hold, Ticket


class Order(Protocol):
    """The contract of what orders calls; `Scheduler` implements it."""

    def new_queue(self) -> RankedQueue[Ticket]:
        """Make a queue in the order of the policy."""

    def first_of(self, queue: RankedQueue[Ticket], now: float) -> Ticket | None:
        """Return the most urgent call of a queue without removing it."""

    def urgency(self, ticket: Ticket, now: float) -> Rank:
        """Return the rank of a call among all, smallest first."""


class Needs(Protocol):
    """The contract of what computes reservations; `Reservations` implements it."""

    def amount(self, call: Call) -> Cost:
        """Return what a call would reserve now. Raises `BudgetExceeded` if it cannot be paid."""

    def waits_in_vain(self, call: Call, account: BudgetAccount) -> BudgetExceeded | None:
        """Return why no reservation on the account can settle before the call is answered."""


class BudgetQueue:
    """The calls that wait for a budget, by account.

    Args:
        needs: computes what a call would reserve.
        order: decides which call goes first.
        now: the clock.
        on_freed: called when calls may be woken with `wake`.
    """

    def __init__(
        self,
        needs: Needs,
        order: Order,
        now: Callable[[], float],
        on_freed: Callable[[], None],
    ) -> None:
        self._needs = needs
        self._order = order
        self._now = now
        self._on_freed = on_freed
        self.calls: dict[int, Call] = {}
        self._waiting: dict[BudgetAccount, RankedQueue[Ticket]] = {}
        self.freed: dict[BudgetAccount, None] = {}  # accounts with calls to be woken
        self._listening: set[BudgetAccount] = set()

    def __len__(self) -> int:
        return len(self.calls)

    def __repr__(self) -> str:
        return f"<BudgetQueue: {len(self)} calls>"

    def add(self, account: BudgetAccount, call: Call) -> None:
        """Add a call that waits for an account; its ticket must be held already."""
        queue = self._waiting.get(account)
        if queue is None:
            queue = self._waiting[account] = self._order.new_queue()
        queue.push(_ticket_of(call))
        self.calls[call.syscall.id] = call
        call.waits_for = account
        self._listen(account)

    def discard(self, call: Call) -> None:
        """Remove a call that waits. Does nothing if it does not wait."""
        account = call.waits_for
        if account is not None:
            self._drop(account, call)
            self._mark_freed(account)  # the call behind it may fit

    def ahead_of(self, call: Call) -> BudgetAccount | None:
        """Return an account of the call's chain that a call of a better rank waits for.

        A call must not overtake it, even if its own, smaller reservation would fit.
        """
        if not self._waiting:
            return None
        mine = self._order.urgency(_ticket_of(call), self._now())
        for account in call.process.budget.chain:
            best = self._best(account)
            if best and self._order.urgency(_ticket_of(best), self._now()) < mine:
                return account
        return None

    def wake(self) -> Iterator[tuple[Call, BudgetExceeded | None]]:
        """Yield the calls that may try again, and those that can no longer be paid."""
        while self.freed:
            account, _ = self.freed.popitem()
            yield from self._wake_for(account)
            if self._waiting.get(account):
                self._listen(account)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        for account, queue in self._waiting.items():
            held = account.reserved
            if queue and not (any((held.tokens, held.money, held.calls)) or account in self.freed):
                raise KernelBug(
                    f"{len(queue)} calls wait for {account!r}, which has no reservation to settle"
                )
        for call in self.calls.values():
            ticket, waits_for = _ticket_of(call), call.waits_for
            is_queued = waits_for in self._waiting and ticket in self._waiting[waits_for]
            if call.is_answered or not is_queued or Hold.BUDGET not in ticket.holds:
                raise KernelBug(f"{call.syscall!r} is listed as waiting for {waits_for!r}")

    def _wake_for(self, account: BudgetAccount) -> Iterator[tuple[Call, BudgetExceeded | None]]:
        promised = Cost()  # for the calls woken in this pass, which have not reserved yet
        while (call := self._best(account)) is not None:
            try:
                amount = self._needs.amount(call)
            except BudgetExceeded as exc:
                self._drop(account, call)
                yield call, exc
                continue
            if call.process.budget.blocker(amount + promised) is account:
                error = None if promised.calls else self._needs.waits_in_vain(call, account)
                if error is None:
                    break
                self._drop(account, call)
                yield call, error
                continue
            promised += amount
            self._drop(account, call)
            yield call, None

    def _best(self, account: BudgetAccount) -> Call | None:
        """Return the call of the best rank that waits for an account."""
        queue = self._waiting.get(account)
        first = self._order.first_of(queue, self._now()) if queue else None
        return self.calls[first.syscall.id] if first else None

    def _drop(self, account: BudgetAccount, call: Call) -> None:
        call.waits_for = None
        del self.calls[call.syscall.id]
        queue = self._waiting[account]
        queue.remove(_ticket_of(call))
        if not queue:
            del self._waiting[account]

    def _listen(self, account: BudgetAccount) -> None:
        if account not in self._listening:
            self._listening.add(account)
            account.when_freed(partial(self._settled, account))

    def _settled(self, account: BudgetAccount) -> None:
        self._listening.discard(account)
        self._mark_freed(account)

    def _mark_freed(self, account: BudgetAccount) -> None:
        if account in self._waiting:
            self.freed[account] = None
            self._on_freed()


def _ticket_of(call: Call) -> Ticket:
    if call.ticket is None:
        raise KernelBug(f"{call.syscall!r} waits for a budget without a ticket")
    return call.ticket
