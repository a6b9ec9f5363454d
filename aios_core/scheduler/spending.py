"""Account for the cost of calls, from preparation to settlement, for the dispatcher."""

from __future__ import annotations

from collections.abc import Callable

from aios_core.budget import BudgetAccount, Cost
from aios_core.scheduler.answer_checks import Join, Verdicts
from aios_core.scheduler.budget_queue import BudgetQueue, Order
from aios_core.scheduler.call import Call, PriceList
from aios_core.scheduler.estimates import Estimates
from aios_core.scheduler.reservations import Reservations


class Spending:
    """What the calls of one dispatcher may spend, and have spent.

    `reservations` sets aside, `queue` lets calls wait for that, `verdicts` judges what came.
    """

    def __init__(
        self,
        prices: PriceList,
        estimates: Estimates,
        join: Join,
        *,
        order: Order,
        now: Callable[[], float],
        on_freed: Callable[[], None],
    ) -> None:
        self.reservations = Reservations(prices, estimates)
        self.queue = BudgetQueue(self.reservations, order, now, on_freed)
        self.verdicts = Verdicts(estimates, self.reservations, join)

    def begin(self, call: Call) -> BudgetAccount | None:
        """Reserve for a run that has a slot. Returns the account that it has to wait for, if any.

        Raises:
            BudgetExceeded: it needs more than is unspent.
        """
        blocker = None
        if self.queue.calls:
            self.reservations.amount(call)  # raises for a call that need not wait
            blocker = self.queue.ahead_of(call)
        blocker = blocker or self.reservations.begin(call)
        if blocker and (error := self.reservations.waits_in_vain(call, blocker)):
            raise error
        return blocker

    def settle(self, call: Call) -> Cost:
        """Book what an answered call cost; see `Reservations.settle`."""
        if call.waits_for is not None:
            self.queue.discard(call)
        return self.reservations.settle(call)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self.queue.check()
