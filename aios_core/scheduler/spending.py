"""Account for the cost of calls, from preparation to settlement.

What is reserved is decided in `reservations`; here answers and usages are judged against what the
kernel counted itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from aios_core.budget import BudgetAccount, Cost
from aios_core.core import Core
from aios_core.messages import (
    Choice,
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCall,
    Usage,
)
from aios_core.messages.completion import NO_USAGE
from aios_core.scheduler.allowance import Allowance, Estimates, check_usage, start_of_message
from aios_core.scheduler.budget_queue import BudgetQueue, Order
from aios_core.scheduler.call import Call, PriceList
from aios_core.scheduler.reservations import Reservations, allowance_of

Join = Callable[[Sequence[Delta]], Sequence[Message]]  # one message for each answer


class Verdict(NamedTuple):
    """What is made of an answer."""

    completion: Completion
    fault: str = ""  # what of the claimed usage was not believed
    was_cut: bool = False


class Verdicts:
    """Judges answers and usages against what the kernel counted itself.

    Args:
        join: makes assistant's turns of their deltas: one for each answer, one at least.
    """

    def __init__(self, estimates: Estimates, reservations: Reservations, join: Join) -> None:
        self._estimates = estimates
        self._reservations = reservations
        self._join = join

    def cut(self, call: Call) -> Completion:
        """Return the answer of a run that was ended: the part within its limits."""
        allowance = allowance_of(call)
        is_estimated = not allowance.prepared.is_exact
        usage = Usage(allowance.prompt_tokens, allowance.num_tokens, is_estimated=is_estimated)
        self._estimates.learn(call.syscall.pid, call.model, usage.output_tokens)
        first, *others = self._join(allowance.heard)
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
        """The usage to book, and what of the claimed one was not believed."""
        allowance = call.allowance
        if allowance is None:
            return claimed, ""
        known = allowance.evidence(core.capabilities.context_window, _messages_of(said))
        is_silent = not (claimed.is_estimated or claimed.input_tokens or claimed.output_tokens)
        if is_silent and said is None and not allowance.num_tokens:
            return NO_USAGE, ""  # it never came so far that it cost anything
        if is_silent or claimed.is_estimated:
            return known.usage(), ""
        judged = check_usage(claimed, known)
        return judged.usage, judged.fault

    def _learn(self, call: Call, allowance: Allowance, usage: Usage) -> None:
        self._estimates.learn(call.syscall.pid, call.model, usage.output_tokens)
        if not (usage.is_estimated or allowance.prepared.is_exact):
            allowance.ratio.learn_prompt(call.syscall.request, usage.input_tokens)


def join_text(deltas: Sequence[Delta]) -> Sequence[Message]:
    """An assistant's turn of deltas with text and tool calls alone."""
    calls: dict[int, ToolCall] = {}
    for part in (part for delta in deltas for part in delta.tool_calls):
        was = calls.get(part.index) or ToolCall(part.id or "", part.name or "", "")
        calls[part.index] = replace(was, arguments=was.arguments + part.arguments)
    text = "".join(delta.text for delta in deltas)
    in_order = tuple(calls[index] for index in sorted(calls))
    return (Message("assistant", text, tool_calls=in_order),)


def _shortened(allowance: Allowance, said: Completion, end: int) -> Completion:
    """As much of an answer, or of several, as has so many tokens; each gets its share."""
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
    """The tokens of an answer: at least so many, or about so many if nobody else counted."""
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
