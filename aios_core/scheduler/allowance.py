"""Limit what one call may generate, counted as it arrives, even if its core ignores limits.

The limit is the caller's, or what its budget has left. `take` hands on what is within it and
says when the answer has to end; a core's own count is believed as far as the text that came
with it allows that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from aios_core.budget import FREE, Cost, Price
from aios_core.core import Prepared, Progress
from aios_core.messages import Delta, Message
from aios_core.scheduler.trimming import start_of_delta
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import TokenRatio, answer_texts, at_least
from aios_core.untrusted.reported_numbers import Evidence

LimitedBy = Literal["max_tokens", "window", "budget"]

_FORGIVEN: Final = 4  # a core that knows its tokens may be off from our bound by this factor


class Taken(NamedTuple):
    """What of some progress goes to the caller, and whether the answer ends with it."""

    delta: Delta
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Allowance:
    """What a call may generate, and what it generated so far, all its runs together.

    Tokens are those of all answers to the call, if it asked for several.
    """

    request: LLMGenerate
    prepared: Prepared
    price: Price
    ratio: TokenRatio
    prompt_tokens: int  # counted, or else estimated
    limit: int | None = None  # nobody may exceed it; None: neither caller nor budget sets one
    limited_by: LimitedBy = "window"
    reserved: int | None = None  # as many are set aside for the answer; None: no budget limits it
    num_tokens: int = 0  # that have surely come
    num_estimated: int = 0  # ... about
    heard: list[Delta] = field(default_factory=list)  # what a cut answer is made of
    is_external: bool = False  # its caller gets the answer past the kernel, which cannot cut it
    _told: int = 0  # tokens that a core with a tokenizer reported
    _least: int = 0  # ... and that its texts have at least

    def cost_of(self, input_tokens: int, output_tokens: int, calls: int = 0) -> Cost:
        """Return the cost of that many tokens and calls."""
        money = 0.0 if self.price is FREE else self.price.of(input_tokens, output_tokens)
        return Cost(input_tokens + output_tokens, money, calls)

    @property
    def end(self) -> int | None:
        """The number of tokens after which the answer ends as things are."""
        if self.limit is None or self.reserved is None:
            return self.reserved if self.limit is None else self.limit
        return min(self.limit, self.reserved)

    @property
    def ends_by(self) -> LimitedBy:
        """Return which limit ends the answer first."""
        if self.reserved is not None and self.end != self.limit:
            return "budget"
        return self.limited_by

    def tokens_of(self, progress: Progress) -> int:
        """Count what a core reports: as many as it says, unless its text has surely more."""
        told = max(0, progress.num_tokens)
        if self.prepared.is_exact and self.limit is None:
            return told
        least = sum(map(at_least, answer_texts(progress.delta)))
        if not self.prepared.is_exact:
            return max(told, least)
        self._told, self._least = self._told + told, self._least + least
        is_plausible = self._least <= self._told * _FORGIVEN
        return max(0, (self._told if is_plausible else self._least) - self.num_tokens)

    def take(self, progress: Progress, num_tokens: int) -> Taken:
        """Count progress of so many tokens, as far as it is within the limits."""
        end = self.end
        room = None if end is None else end - self.num_tokens
        if room is None or num_tokens <= room:
            self._count(progress.delta, num_tokens)
            return Taken(progress.delta)
        delta = start_of_delta(progress.delta, room, self.ratio) if room > 0 else Delta()
        self._count(delta, max(0, room))
        return Taken(delta, is_over=True)

    def came(self, messages: Iterable[Message]) -> int:
        """Count the tokens that whole answers have at least."""
        least = sum(at_least(text) for message in messages for text in answer_texts(message))
        return max(self.num_tokens, least // _FORGIVEN if self.prepared.is_exact else least)

    def evidence(self, context_window: int, messages: Sequence[Message] = ()) -> Evidence:
        """Return what the kernel counted itself for the call and its answers."""
        least, about = self.num_tokens, self.num_estimated
        if not self.prepared.is_exact:
            least = self.came(messages)
        if not about:  # nothing was streamed
            texts = (text for message in messages for text in answer_texts(message))
            about = sum(map(self.ratio.tokens_in, texts))
        return Evidence(
            prompt_tokens=self.prompt_tokens,
            max_prompt_tokens=self.prepared.num_tokens,
            context_window=context_window,
            output_tokens=max(least, about),
            min_output_tokens=least,
            max_output_tokens=None if self.is_external else self.limit,
            is_exact=self.prepared.is_exact,
        )

    def _count(self, delta: Delta, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        about = num_tokens
        if not self.prepared.is_exact:
            about = max(about, sum(map(self.ratio.tokens_in, answer_texts(delta))))
        self.num_estimated += about
        if self.limit is not None and delta:
            self.heard.append(delta)

    @property
    def num_answers(self) -> int:
        """Answers that the call asked for."""
        return self.request.sampling.num_choices

    @property
    def own_limit(self) -> int | None:
        """The caller's limit, for all answers together; None if it set none."""
        each = self.request.sampling.max_tokens
        return None if each is None else int(each) * self.num_answers

    @property
    def limit_of_each(self) -> int | None:
        """The limit of one answer; None if neither caller nor budget sets one."""
        return None if self.limit is None else max(1, self.limit // self.num_answers)

    def go_on_from(self, snapshot: Snapshot) -> None:
        """Add what an earlier kernel counted for the call."""
        self.num_tokens = self.num_estimated = self._told = len(snapshot.output_ids)
        if snapshot.text:
            self.heard.append(Delta(snapshot.text))
