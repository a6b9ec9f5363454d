"""What calls cost, from their preparation to their settlement: the dispatcher's one address for it.

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
        """See `Reservations.prepare`. Raises `BudgetExceeded`."""
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
        """See `BudgetQueue.wake`."""
        return self._queue.wake()

    def stop_waiting(self, call: Call) -> None:
        """A call waits for nobody any more."""
        self._queue.discard(call)

    def progressed(self, call: Call, core: Core, progress: Progress) -> Step:
        """See `Reservations.progressed`."""
        return self._reservations.progressed(call, core, progress)

    def park(self, call: Call) -> None:
        """See `Reservations.park`."""
        self._reservations.park(call)

    def cut(self, call: Call) -> Completion:
        """See `Verdicts.cut`."""
        return self._verdicts.cut(call)

    def finished(self, call: Call, core: Core, said: Completion) -> Verdict:
        """See `Verdicts.finished`."""
        return self._verdicts.finished(call, core, said)

    def usage(self, call: Call, core: Core, claimed: Usage) -> tuple[Usage, str]:
        """See `Verdicts.usage`."""
        return self._verdicts.usage(call, core, claimed)

    def settle(self, call: Call) -> Cost:
        """See `Reservations.settle`."""
        self._queue.discard(call)
        return self._reservations.settle(call)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self._queue.check()
