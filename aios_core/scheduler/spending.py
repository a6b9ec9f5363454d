"""Account for the cost of calls, from preparation to settlement, for the dispatcher.

`Reservations` sets aside, `BudgetQueue` lets calls wait for that, `Verdicts` judges what came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aios_core.budget import BudgetAccount, Cost
from aios_core.core import Core, Prepared, Progress
from aios_core.errors import BudgetExceeded
from aios_core.messages import Completion, Usage
from aios_core.scheduler.budget_queue import BudgetQueue, Order
from aios_core.scheduler.call import Call, PriceList
from aios_core.scheduler.estimates import Estimates
from aios_core.scheduler.reservations import Reservations, Step
from aios_core.scheduler.verdicts import Join, Verdict, Verdicts


class Spending:
    """Limits, reserves, counts and settles the calls of one dispatcher."""

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
        self._reservations = Reservations(prices, estimates)
        self._queue = BudgetQueue(self._reservations, order, now, on_freed)
        self._verdicts = Verdicts(estimates, self._reservations, join)

    def prepare(self, call: Call, prepared: Prepared) -> None:
        """Set the limit of a call. Raises `BudgetExceeded`; see `Reservations.prepare`."""
        self._reservations.prepare(call, prepared)

    def begin(self, call: Call) -> BudgetAccount | None:
        """Reserve for a run that has a slot. Returns the account that it has to wait for, if any.

        Raises:
            BudgetExceeded: it needs more than is unspent.
        """
        blocker = None
        if len(self._queue):
            self._reservations.amount(call)  # raises for a call that need not wait
            blocker = self._queue.ahead_of(call)
        blocker = blocker or self._reservations.begin(call)
        if blocker and (error := self._reservations.waits_in_vain(call, blocker)):
            raise error
        return blocker

    def wait(self, call: Call, account: BudgetAccount) -> None:
        """Let a held call wait until others have settled; see `wake`."""
        self._queue.add(account, call)

    def wake(self) -> Iterator[tuple[Call, BudgetExceeded | None]]:
        """Yield the waiting calls that may try again; see `BudgetQueue.wake`."""
        return self._queue.wake()

    def stop_waiting(self, call: Call) -> None:
        """Remove a call from the queue of a budget."""
        self._queue.discard(call)

    def progressed(self, call: Call, core: Core, progress: Progress) -> Step:
        """Count what a run generated; see `Reservations.progressed`."""
        return self._reservations.progressed(call, core, progress)

    def park(self, call: Call) -> None:
        """Park the reservation of a waiting call; see `Reservations.park`."""
        self._reservations.park(call)

    def cut(self, call: Call) -> Completion:
        """Return the answer of a run that was ended at a limit; see `Verdicts.cut`."""
        return self._verdicts.cut(call)

    def finished(self, call: Call, core: Core, said: Completion) -> Verdict:
        """Return what a finished answer counts as; see `Verdicts.finished`."""
        return self._verdicts.finished(call, core, said)

    def usage(self, call: Call, core: Core, claimed: Usage) -> tuple[Usage, str]:
        """Return the usage to book for a call; see `Verdicts.usage`."""
        return self._verdicts.usage(call, core, claimed)

    def settle(self, call: Call) -> Cost:
        """Book what an answered call cost; see `Reservations.settle`."""
        self._queue.discard(call)
        return self._reservations.settle(call)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self._queue.check()
