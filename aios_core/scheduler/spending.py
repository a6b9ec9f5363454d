"""Account for the cost of calls: reserve for every run, check answers and usage, settle.

Only a running call holds a reservation. It is made when the call has a slot, for the usual length
of answers (`Estimates`) or for the caller's own limit. It is raised while the answer grows, and
reduced to what was spent while the call waits for its next run. So a call that waits for a budget
waits for running calls only, never for another waiting one, and a deadlock is impossible. A call is
refused only if it needs more than is unspent. If too little is unreserved, it waits in a
`BudgetQueue` until other calls settle.

Answers and usage are checked against the kernel's own counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from aios_core.budget import NOTHING, BudgetAccount, Cost, Price
from aios_core.core import Core, Prepared, Progress
from aios_core.errors import BudgetExceeded, KernelBug
from aios_core.messages import (
    Choice,
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCall,
    Usage,
)
from aios_core.messages.conversation import NO_USAGE
from aios_core.scheduler.allowance import Allowance, Estimates, check_usage, start_of_message
from aios_core.scheduler.budget_queue import BudgetQueue, Order
from aios_core.scheduler.call import Call, PriceList

_ANSWERS: Final = frozenset({"tokens", "money"})  # limits that bound what is generated
_STEP: Final = 64  # tokens by which a reservation grows at least, if the budget has them
_ROOM: Final = 32  # a reservation grows as soon as fewer tokens are left
_LAST: Final = 8  # a run that cannot be paid further is preempted when fewer are left
_ANY_ANSWER: Final = 131_072  # tokens; no model writes more in one answer
# The least reservation for an answer that cannot be cut later. It is sent as the limit.
_EXTERNAL: Final = 4_096
_EXTERNAL_FACTOR: Final = 4  # ... or so many times what is expected,
_EXTERNAL_PART: Final = 8  # ... or this part of what is unreserved


class Step(NamedTuple):
    """The effect of a run's progress."""

    delta: Delta  # for the caller
    is_over: bool = False  # the run must end
    gives_way: bool = False  # the run must pause until other calls have settled


class Reservations:
    """Sets the limits of calls, and makes, raises, reduces and settles their reservations."""

    def __init__(self, prices: PriceList, estimates: Estimates) -> None:
        self._prices = prices
        self._estimates = estimates
        self._known_prices: dict[str, Price] = {}
        self._external: dict[int, Call] = {}  # calls of which the caller holds the reservation

    # --- before a run -------------------------------------------------------------------------

    def prepare(self, call: Call, prepared: Prepared) -> None:
        """Set the limits of a call's answer; this makes the call `prepared`.

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
        if call.resume_from is not None:  # loaded from a file: another kernel counted its tokens
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
        if account.limited:  # without limits nothing can have changed since it was prepared
            self._limit(call, allowance)
            num_tokens = self._wanted(call, allowance)
        amount = self._cost(call, allowance, num_tokens)
        if account.limited and (blocker := account.blocker(amount)) is not None:
            return blocker
        if call.reservation is None:  # a resumed call keeps what it has reserved
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
        """Return the error for a call that would wait for itself; None if it would not.

        That is so if only external calls of its ancestors hold the rest of the budget. An
        agent may let a child make calls while it reads its provider's answer; its own
        reservation is settled only after these calls are answered.
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
        is_same = most == allowance.prepared.max_tokens  # the usual case, which needs no copy
        call.prepared = (
            allowance.prepared if is_same else replace(allowance.prepared, max_tokens=most)
        )

    def _unspent(self, call: Call, allowance: Allowance) -> int:
        """Return how many answer tokens the budget could pay for alone; at least 1."""
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
        """Return the answer tokens to reserve for the next run of a call."""
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
        """Count what a run generated, and raise its reservation if little is left of it."""
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
        """Reserve for an answer of `num_tokens` and some more. False if the budget lacks it."""
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

        They suffice for any answer if the budgets have twice as many left. Otherwise half of
        the rest stays for other agents with the same budgets. An agent that shares its budgets
        with no other keeps enough for one usual call, which it may make while it reads this
        answer.
        """
        free = self._unreserved(call, 2 * _ANY_ANSWER)
        if free >= 2 * _ANY_ANSWER:
            return _ANY_ANSWER
        is_long = expected > _EXTERNAL // 2
        plenty = _EXTERNAL_FACTOR * expected if is_long else _EXTERNAL
        plenty = max(plenty, free // _EXTERNAL_PART)
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
        """Reduce the reservation of a call that waits for its next run to what it spent."""
        self._external.pop(call.syscall.id, None)
        if call.reservation is not None:
            allowance = allowance_of(call)
            prompt = allowance.prompt_tokens if allowance.num_tokens else 0
            call.reservation.park(allowance.cost_of(prompt, allowance.num_tokens, calls=1))
            allowance.reserved = None

    def settle(self, call: Call) -> Cost:
        """Charge the cost of a call, once. Returns the part beyond all limits, not charged."""
        self._external.pop(call.syscall.id, None)
        if call.reservation is None:
            return NOTHING
        usage, calls = call.syscall.usage, 0 if call.syscall.first_run_at is None else 1
        cost = allowance_of(call).cost_of_usage(usage, calls)
        call.process.accounting.money += cost.money
        reservation, call.reservation = call.reservation, None
        return reservation.settle(cost)


def _is_prompt_paid(call: Call) -> bool:
    """Return whether the tokens of the prompt are charged."""
    return call.reservation is not None and call.reservation.booked.tokens > 0


def _is_shared(call: Call) -> bool:
    """Return whether other agents can spend from the budgets that limit a call."""
    process = call.process
    above = process.budget.chain[1:]
    return bool(process.children) or any(account.limits.limits_calls for account in above)


def allowance_of(call: Call) -> Allowance:
    """Return the allowance of a prepared call."""
    if call.allowance is None:
        raise KernelBug(f"{call.syscall!r} was not prepared")
    return call.allowance


Join = Callable[[Sequence[Delta]], Sequence[Message]]  # one message for each answer


class Verdict(NamedTuple):
    """The result of checking an answer and its usage."""

    completion: Completion
    fault: str = ""  # why a reported figure was replaced
    was_cut: bool = False


class Verdicts:
    """Checks answers and usage against the kernel's own counts.

    Args:
        join: makes assistant's turns of their deltas: one for each answer, one at least.
    """

    def __init__(self, estimates: Estimates, reservations: Reservations, join: Join) -> None:
        self._estimates = estimates
        self._reservations = reservations
        self._join = join

    def cut(self, call: Call) -> Completion:
        """Return the answer of a run that the kernel ended: the part within its limits."""
        allowance = allowance_of(call)
        is_estimated = not allowance.prepared.is_exact
        usage = Usage(allowance.prompt_tokens, allowance.num_tokens, is_estimated=is_estimated)
        self._estimates.learn(call.syscall.pid, call.model, usage.output_tokens)
        first, *others = self._join(allowance.received)
        return Completion(
            first,
            FinishReason.LENGTH,
            usage,
            call.model,
            choices=tuple(Choice(message, FinishReason.LENGTH) for message in others),
            length_reason=allowance.ends_by,
        )

    def finished(self, call: Call, core: Core, said: Completion) -> Verdict:
        """Return the part of an answer within its limits, with a checked usage."""
        allowance = allowance_of(call)
        usage, fault = self.usage(call, core, said.usage, said)
        self._learn(call, allowance, usage)
        if allowance.reserved is not None:
            self._reservations.cover(call, usage.output_tokens)
        if usage is not said.usage:
            said = replace(said, usage=usage)
        end = None if allowance.is_external else allowance.end
        if end is not None and _came(allowance, said) > end:
            return Verdict(_shortened(allowance, said, end), fault, was_cut=True)
        if said.finish_reason is FinishReason.LENGTH and said.length_reason is None:
            said = replace(said, length_reason=allowance.limited_by)
        return Verdict(said, fault)

    def usage(
        self, call: Call, core: Core, claimed: Usage, said: Completion | None = None
    ) -> tuple[Usage, str]:
        """Return the usage to charge, and why it differs from the reported one."""
        allowance = call.allowance
        if allowance is None:
            return claimed, ""
        known = allowance.evidence(core.capabilities.context_window, _messages_of(said))
        is_silent = not (claimed.is_estimated or claimed.input_tokens or claimed.output_tokens)
        if is_silent and said is None and not allowance.num_tokens:
            return NO_USAGE, ""  # it never ran
        if is_silent or claimed.is_estimated:
            return known.usage(), ""
        judged = check_usage(claimed, known)
        return judged.usage, judged.fault

    def _learn(self, call: Call, allowance: Allowance, usage: Usage) -> None:
        self._estimates.learn(call.syscall.pid, call.model, usage.output_tokens)
        if not (usage.is_estimated or allowance.prepared.is_exact):
            allowance.ratio.learn_prompt(call.syscall.request, usage.input_tokens)


def join_text(deltas: Sequence[Delta]) -> Sequence[Message]:
    """Join deltas with text and tool calls only to one assistant message."""
    calls: dict[int, ToolCall] = {}
    for part in (part for delta in deltas for part in delta.tool_calls):
        was = calls.get(part.index) or ToolCall(part.id or "", part.name or "", "")
        calls[part.index] = replace(was, arguments=was.arguments + part.arguments)
    text = "".join(delta.text for delta in deltas)
    in_order = tuple(calls[index] for index in sorted(calls))
    return (Message("assistant", text, tool_calls=in_order),)


def _shortened(allowance: Allowance, said: Completion, end: int) -> Completion:
    """Cut an answer, or several, to that many tokens in all; each gets an equal share."""
    each, ratio = max(1, end // allowance.num_answers), allowance.ratio
    return replace(
        said,
        message=start_of_message(said.message, each, ratio),
        choices=tuple(
            replace(choice, message=start_of_message(choice.message, each, ratio))
            for choice in said.choices
        ),
        usage=replace(said.usage, output_tokens=min(said.usage.output_tokens, end)),
        finish_reason=FinishReason.LENGTH,
        length_reason=allowance.ends_by,
    )


def _came(allowance: Allowance, said: Completion) -> int:
    """Return the tokens of an answer: a lower bound, or an estimate if the core has no count."""
    messages = _messages_of(said)
    if allowance.num_tokens or not said.usage.is_estimated:
        return allowance.came(messages)
    return allowance.evidence(0, messages).output_tokens


def _messages_of(said: Completion | None) -> Sequence[Message]:
    if said is None:
        return ()
    if not said.choices:
        return (said.message,)
    return [choice.message for choice in said.all_choices]


class Spending:
    """The spending of one dispatcher's calls.

    `reservations` sets money and tokens aside, `queue` holds the calls that wait for that,
    and `verdicts` checks answers and usage.
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
        self.estimates = estimates
        self.reservations = Reservations(prices, estimates)
        self.queue = BudgetQueue(self.reservations, order, now, on_freed)
        self.verdicts = Verdicts(estimates, self.reservations, join)

    def begin(self, call: Call) -> BudgetAccount | None:
        """Reserve for a run that has a slot. Returns the account that it must wait for, if any.

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
        """Charge the cost of an answered call. Returns the part beyond all limits."""
        if call.waits_for is not None:
            self.queue.discard(call)
        return self.reservations.settle(call)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self.queue.check()
