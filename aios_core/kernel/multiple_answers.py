"""Several answers to one prompt from a core that gives one at a time.

The kernel makes as many calls, each accounted for, and hands their answers to the
caller as the choices of one. If one of them fails, so does the whole, and the
others are cancelled. Everything here runs on the kernel's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from aios_core.messages import Choice, Completion, Delta, Usage
from aios_core.scheduler.call import Answer
from aios_core.syscalls import LLMGenerate, Syscall


def single_requests(request: LLMGenerate) -> list[LLMGenerate]:
    """Return one request for each of the answers wanted; a seed counts up, so that they differ."""
    sampling = request.sampling
    return [
        replace(
            request,
            sampling=replace(
                sampling,
                n=None,
                seed=None if sampling.seed is None else sampling.seed + number,
            ),
        )
        for number in range(sampling.num_choices)
    ]


@dataclass(slots=True, eq=False)
class SeveralAnswers:
    """Collects the answers of single calls for the caller of them all."""

    answer: Answer
    num_wanted: int
    cancel: Callable[[Syscall], object]
    approval: asyncio.Future[None] | None = None  # that all of them wait for
    syscalls: list[Syscall] = field(default_factory=list)
    _completions: dict[int, Completion] = field(default_factory=dict)
    _is_over: bool = False

    def part(self, number: int) -> Answer:
        """Return the receiver for the answer of one of the calls."""
        return _Part(self, number, self.answer.wants_deltas)

    def delta(self, number: int, delta: Delta) -> None:
        if not self._is_over:
            self.answer.delta(replace(delta, choice=number))

    def resolve(self, number: int, completion: Completion) -> None:
        self._completions[number] = completion
        if len(self._completions) == self.num_wanted and not self._is_over:
            self._is_over = True
            self.answer.resolve(merge([self._completions[i] for i in range(self.num_wanted)]))

    def reject(self, error: BaseException) -> None:
        """Fail the whole; the calls that still run end after the one that failed has."""
        if not self._is_over:
            self._is_over = True
            asyncio.get_running_loop().call_soon(self.cancel_all)
            self.answer.reject(error)

    def cancel_all(self) -> None:
        """Cancel every call that has no answer yet, and what they wait for."""
        if self.approval is not None:
            self.approval.cancel()
        for syscall in self.syscalls:
            self.cancel(syscall)


@dataclass(slots=True, eq=False)
class _Part:
    """Where the answer of one call goes (`aios_core.scheduler.call.Answer`)."""

    whole: SeveralAnswers
    number: int
    wants_deltas: bool

    def delta(self, delta: Delta) -> None:
        self.whole.delta(self.number, delta)

    def resolve(self, completion: Completion) -> None:
        self.whole.resolve(self.number, completion)

    def reject(self, error: BaseException) -> None:
        self.whole.reject(error)


class _Nobody:
    """An answer without a waiting caller."""

    wants_deltas = False

    def delta(self, delta: Delta) -> None:
        """Drop it."""

    def resolve(self, completion: Completion) -> None:
        """Drop it."""

    def reject(self, error: BaseException) -> None:
        """Drop it."""


NOBODY: Final[Answer] = _Nobody()


def merge(completions: list[Completion]) -> Completion:
    """Return single answers as the choices of one, with the usage of them all."""
    first, *others = completions
    choices: list[Choice] = [choice for one in others for choice in one.all_choices]
    usage = sum((one.usage for one in completions), Usage())
    return replace(first, choices=(*first.choices, *choices), usage=usage)
