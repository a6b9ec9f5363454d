"""Reserve the cost of every run on its budgets; a call that finds too little waits.

Only a run holds a reservation. It is made when a slot is at hand, as large as answers
usually are (`Estimates`) or as the caller's own limit; it is raised while the answer grows,
and parked while the call waits for its next run: then only what was spent counts. So
whoever waits for a budget waits for runs, never for another who waits.

A call is refused only if it needs more than is unspent. One that finds too little unreserved
waits in a `BudgetQueue` until somebody settles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from aios_core.budget import NOTHING, BudgetAccount, Cost, Price
from aios_core.core import Core, Prepared, Progress
from aios_core.errors import BudgetExceeded, KernelBug
from aios_core.messages import Delta
from aios_core.scheduler.allowance import Allowance, Estimates
from aios_core.scheduler.call import Call, PriceList

_ANSWERS: Final = frozenset({"tokens", "money"})  # limits that bound what is generated
_STEP: Final = 64  # tokens by which a reservation grows at least, if there are so many
_ROOM: Final = 32  # it grows as soon as fewer are left
_LAST: Final = 8  # a run that cannot be paid further gives way when fewer are left
_ANY_ANSWER: Final = 131_072  # tokens; more than models write at once
# The least reservation for an answer that cannot be cut later. It is sent as the limit; models take
# so small a limit, and those that have written longer answers take a larger one.
_EXTERNAL: Final = 4_096
_EXTERNAL_FACTOR: Final = 4  # ... or so many times what is expected


class Step(NamedTuple):
    """What progress of a run leads to."""

    delta: Delta  # for the caller
    is_over: bool = False  # the run has to end
    gives_way: bool = False  # it can go on once others have settled


class Reservations:
    """Limits, reserves, raises, parks and settles. Pure, but for the accounts it keeps."""

    def __init__(self, prices: PriceList, estimates: Estimates) -> None:
        self._prices = prices
        self._estimates = estimates
        self._known_prices: dict[str, Price] = {}
        self._external: dict[int, Call] = {}  # whose callers hold what is reserved for them

    # --- before a run -------------------------------------------------------------------------

    def prepare(self, call: Call, prepared: Prepared) -> None:
        """Say what a call may generate; it is `prepared` then.

        Raises:
            BudgetExceeded: it needs more than is unspent.
        """
        request, model = call.syscall.request, call.model
        ratio, price = self._estimates.ratio(model), self._price_of(model)
        prompt = prepared.num_tokens
        if not prepared.is_exact:
            prompt = min(prompt, ratio.prompt_tokens(request))
        call.allowance = Allowance(request, prepared, price, ratio, prompt)
        call.allowance.is_external = call.route[0].capabilities.external
        if call.resume_from is not None:  # from a file: this kernel has not seen it come
            call.allowance.go_on_from(call.resume_from)
        self._limit(call, call.allowance)

    def _price_of(self, model: str) -> Price:
        price = self._known_prices.get(model)
        if price is None:
            price = self._known_prices[model] = self._prices(model)
        return price

    def amount(self, call: Call) -> Cost:
        """Return what to reserve for the next run of a call.

        Raises:
            BudgetExceeded: it needs more than is unspent.
        """
        allowance = allowance_of(call)
        self._limit(call, allowance)
        return self._cost(call, allowance, self._wanted(call, allowance))

    def begin(self, call: Call) -> BudgetAccount | None:
        """Reserve for a run. Returns the account that has too little unreserved, if one has.

        Raises:
            BudgetExceeded: it needs more than is unspent.
        """
        account, allowance = call.process.budget, allowance_of(call)
        num_tokens = 0
        if account.limited:  # else nothing has changed since it was prepared
            self._limit(call, allowance)
            num_tokens = self._wanted(call, allowance)
        amount = self._cost(call, allowance, num_tokens)
        if account.limited and (blocker := account.blocker(amount)) is not None:
            return blocker
        if call.reservation is None:
            call.reservation = account.reserve(amount)
        else:
            call.reservation.grow(amount)
        if allowance.is_external:
            self._external[call.syscall.id] = call
        if account.limited and account.limited & _ANSWERS:
            allowance.reserved = allowance.num_tokens + num_tokens
            if allowance.is_external and allowance.own_limit is None:
                allowance.limit = allowance.reserved if num_tokens < _ANY_ANSWER else None
        return None

    def waits_in_vain(self, call: Call, account: BudgetAccount) -> BudgetExceeded | None:
        """Why a call would wait for itself: only its ancestors' external calls hold the rest.

        Whoever asks a provider may have a child make calls before it has read the answer; its
        own reservation would not be settled before they are answered.
        """
        own = [
            other.reservation.amount
            for other in self._external.values()
            if other.reservation and other.process.budget in call.process.budget.chain[1:]
        ]
        held, others = sum(own, Cost()), account.reserved.cost()
        if not own or others.calls > held.calls or others.tokens > held.tokens:
            return None
        return account.refusal(self.amount(call))

    def _limit(self, call: Call, allowance: Allowance) -> None:
        """Limit a call by its caller's limit, or else by what its budget has unspent."""
        account, own = call.process.budget, allowance.own_limit
        if account.limited:
            need = 1 if own is None else max(1, own - allowance.num_tokens)
            account.require_unspent(self._cost(call, allowance, need))
        allowance.limit, allowance.limited_by = own, "max_tokens"
        if own is None and account.limited & _ANSWERS:
            allowance.limit = allowance.num_tokens + self._unspent(call, allowance)
            allowance.limited_by = "budget"
        if allowance.limit is None:
            allowance.limited_by = "window"
            call.prepared = allowance.prepared
        else:
            self._tell_core(call, allowance)

    def _tell_core(self, call: Call, allowance: Allowance) -> None:
        """Prepare a call for the least of its limit and of what the window leaves."""
        room = allowance.prepared.max_tokens
        each = allowance.limit_of_each
        if each is None or each > room or (each == room and allowance.limited_by == "budget"):
            allowance.limited_by = "window"
        most = room if each is None else max(1, min(each, room))
        is_same = most == allowance.prepared.max_tokens  # nearly always, and a copy is not free
        call.prepared = (
            allowance.prepared if is_same else replace(allowance.prepared, max_tokens=most)
        )

    def _unspent(self, call: Call, allowance: Allowance) -> int:
        """Answer tokens that the budget would pay for if nobody else used it; at least 1."""
        account = call.process.budget
        prompt = 0 if _is_prompt_paid(call) else allowance.prompt_tokens
        most = allowance.prepared.max_tokens * allowance.num_answers - allowance.num_tokens
        if (tokens := account.tokens_unspent()) is not None:
            most = min(most, int(tokens) - prompt)
        return allowance.price.affordable(account.money_unspent(), prompt, max(1, most))

    def _cost(self, call: Call, allowance: Allowance, num_tokens: int) -> Cost:
        """Return the cost of that many further answer tokens, and of everything before them."""
        if call.reservation is None:
            return allowance.cost_of(allowance.prompt_tokens, num_tokens, calls=1)
        prompt = 0 if _is_prompt_paid(call) else allowance.prompt_tokens
        is_first = not call.reservation.booked.calls
        return allowance.cost_of(prompt, num_tokens, calls=int(is_first))

    def _wanted(self, call: Call, allowance: Allowance) -> int:
        """Answer tokens to reserve for the next run of a call."""
        if allowance.limit is None or not call.process.budget.limited:
            return 0
        left = max(1, allowance.limit - allowance.num_tokens)
        if allowance.own_limit is not None:
            return left
        expected = self._estimates.answer_tokens(call.syscall.pid, call.model)
        expected *= allowance.num_answers
        if allowance.is_external:
            expected = self._external_share(call, expected)
        return min(left, max(expected - allowance.num_tokens, _STEP))

    # --- during a run -------------------------------------------------------------------------

    def progressed(self, call: Call, core: Core, progress: Progress) -> Step:
        """Count what a run generated, and raise its reservation if it nears its end."""
        allowance = allowance_of(call)
        if allowance.is_external:
            return Step(progress.delta)
        num_tokens = allowance.tokens_of(progress)
        is_paid = allowance.reserved is None or self.cover(call, allowance.num_tokens + num_tokens)
        taken = allowance.take(progress, num_tokens)
        if is_paid or taken.is_over or not core.capabilities.preemptible:
            return Step(taken.delta, taken.is_over)
        left = (allowance.reserved or 0) - allowance.num_tokens
        return Step(taken.delta, gives_way=left < _LAST and self._others_reserve(call))

    def cover(self, call: Call, num_tokens: int) -> bool:
        """Reserve for an answer of so many tokens, and some room. False if there is no more."""
        allowance, reservation = allowance_of(call), call.reservation
        if allowance.reserved is None or allowance.limit is None or reservation is None:
            return True
        if allowance.reserved - num_tokens >= _ROOM or allowance.reserved >= allowance.limit:
            return True
        step = max(_STEP, allowance.reserved // 2, num_tokens + _ROOM - allowance.reserved)
        step = self._unreserved(call, min(step, allowance.limit - allowance.reserved))
        if step <= 0:
            return False
        reservation.grow(allowance.cost_of(0, step))
        allowance.reserved += step
        return True

    def _external_share(self, call: Call, expected: int) -> int:
        """Return the tokens to reserve for an answer that cannot be cut later.

        They suffice for any answer if the budgets have twice as many left. If not, half of what
        is left stays for other agents that spend from the same budgets. An agent that alone
        spends from its budgets keeps enough for one usual call, which it may make while it reads
        this answer.
        """
        free = self._unreserved(call, 2 * _ANY_ANSWER)
        if free >= 2 * _ANY_ANSWER:
            return _ANY_ANSWER
        is_long = expected > _EXTERNAL // 2
        plenty = _EXTERNAL_FACTOR * expected if is_long else _EXTERNAL
        most = free // 2
        if not _is_shared(call):
            most = max(most, free - expected - 2 * allowance_of(call).prompt_tokens)
        return max(expected, min(plenty, most))

    def _unreserved(self, call: Call, num_tokens: int) -> int:
        """Return how many of these answer tokens are unreserved, in tokens and in money."""
        account, price = call.process.budget, allowance_of(call).price
        tokens, money = account.tokens_left(), account.money_left()
        if tokens is not None:
            num_tokens = min(num_tokens, int(tokens))
        if num_tokens > 0 and money is not None:
            num_tokens = price.affordable(money, 0, num_tokens)
            return num_tokens if price.of(0, num_tokens) <= money else 0
        return num_tokens

    def _others_reserve(self, call: Call) -> bool:
        """Return whether another call will give back what this call could use."""
        mine = call.reservation.amount if call.reservation else Cost()
        return any(
            account.limits.limits_calls and account.reserved.tokens > mine.tokens
            for account in call.process.budget.chain
        )

    # --- after a run --------------------------------------------------------------------------

    def park(self, call: Call) -> None:
        """Reserve nothing for a call that waits for its next run; what it spent is booked."""
        self._external.pop(call.syscall.id, None)
        if call.reservation is not None:
            allowance = allowance_of(call)
            prompt = allowance.prompt_tokens if allowance.num_tokens else 0
            call.reservation.park(allowance.cost_of(prompt, allowance.num_tokens, calls=1))
            allowance.reserved = None

    def settle(self, call: Call) -> Cost:
        """Book what a call cost, once. Returns what exceeds all limits, and is not booked."""
        self._external.pop(call.syscall.id, None)
        if call.reservation is None:
            return NOTHING
        usage, calls = call.syscall.usage, 0 if call.syscall.first_run_at is None else 1
        cost = allowance_of(call).cost_of(usage.input_tokens, usage.output_tokens, calls)
        call.process.accounting.money += cost.money
        reservation, call.reservation = call.reservation, None
        return reservation.settle(cost)


def _is_prompt_paid(call: Call) -> bool:
    """Whether the tokens of the prompt are booked."""
    return call.reservation is not None and call.reservation.booked.tokens > 0


def _is_shared(call: Call) -> bool:
    """Return whether other agents can spend from the budgets that limit a call."""
    process = call.process
    above = process.budget.chain[1:]
    return bool(process.children) or any(account.limits.limits_calls for account in above)


def allowance_of(call: Call) -> Allowance:
    """The allowance of a call that was prepared."""
    if call.allowance is None:
        raise KernelBug(f"{call.syscall!r} was not prepared")
    return call.allowance
