"""One sequence as an engine sees it: token ids, and the memory of those computed.

An engine knows no request, no text and no scheduler; what to do with a new token
is decided above it (`generation`).
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from aios_core.cores.transformers.sampling import Sampler


class Memory(Protocol):
    """What a model keeps of the tokens that it has computed."""

    @property
    def length(self) -> int:
        """Tokens that it holds."""

    def release(self) -> None:
        """Free it. Idempotent."""


class Constraint(Protocol):
    """A grammar at some place of its text."""

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [vocabulary] of forbidden tokens to minus infinity, in place."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was generated after it.

    Invariants: `memory` holds a beginning of `ids`, and never all of them, since
    the last token has to be computed to get the next one.
    """

    ids: list[int]
    num_prompt: int
    sampler: Sampler
    memory: Memory | None = None
    constraint: Constraint | None = None

    @classmethod
    def of(cls, prompt: SequenceOf[int], output: SequenceOf[int], sampler: Sampler) -> Sequence:
        return cls([*prompt, *output], len(prompt), sampler)

    def __repr__(self) -> str:
        size = f"{self.num_prompt}+{self.num_output} tokens"
        return f"<Sequence {size}, {self.num_computed} computed>"

    @property
    def num_output(self) -> int:
        return len(self.ids) - self.num_prompt

    @property
    def num_computed(self) -> int:
        return 0 if self.memory is None else self.memory.length

    @property
    def num_pending(self) -> int:
        """Tokens to compute before the next one is known."""
        return len(self.ids) - self.num_computed

    def choose(self, logits: Tensor) -> int:
        """The next token, from logits [vocabulary]."""
        if self.constraint is not None:
            logits = logits.float().clone()
            self.constraint.restrict(logits)
        penalties = self.sampler.penalties
        if penalties is not None:
            prompt, output = self.ids[: self.num_prompt], self.ids[self.num_prompt :]
            logits = penalties.apply(logits, prompt, output)
        return self.sampler.choose(logits, self.num_output)

    def drop_memory(self) -> None:
        if self.memory is not None:
            self.memory.release()
            self.memory = None


@dataclass(slots=True)
class StepResult:
    """What one step brought."""

    tokens: list[tuple[Sequence, int]] = field(default_factory=list)
    out_of_memory: list[tuple[Sequence, str]] = field(default_factory=list)
    num_prefilled: int = 0  # tokens computed beyond one for each sequence


class Engine(Protocol):
    """Advances sequences. Used by one thread."""

    def step(self, sequences: SequenceOf[Sequence]) -> StepResult:
        """Compute for some or all of `sequences`, in order of preference.

        A sequence whose pending tokens were all computed gets a token, which is
        appended to its ids. One for which memory ran out is left as it was.
        """
