"""Sequences of token ids, and the contract of the engines that advance them.

Engines work on tokens only. `generation` connects their tokens to requests and texts.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from aios_core.cores.transformers.sampling import Sampler


class Memory(Protocol):
    """The KV cache, or other state, of the tokens that a model has computed."""

    @property
    def length(self) -> int:
        """Number of computed tokens."""

    def release(self) -> None:
        """Free the memory. Idempotent."""


class Constraint(Protocol):
    """A restriction of the next token, such as a grammar at one position of its text."""

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [vocabulary] of forbidden tokens to minus infinity, in place."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and the tokens generated after it.

    Invariant: `memory` holds a prefix of `ids` and never all of them, since the last
    token has to be computed to get the next one.
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
        """Number of tokens to compute before the next one can be chosen."""
        return len(self.ids) - self.num_computed

    def choose(self, logits: Tensor) -> int:
        """Choose the next token from logits [vocabulary]."""
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
    """The result of one step."""

    tokens: list[tuple[Sequence, int]] = field(default_factory=list)
    out_of_memory: list[tuple[Sequence, str]] = field(default_factory=list)
    num_prefilled: int = 0  # tokens computed beyond one for each sequence


class Engine(Protocol):
    """The contract of what advances sequences. Used by one thread."""

    def step(self, sequences: SequenceOf[Sequence]) -> StepResult:
        """Advance some or all of `sequences`, which are in order of preference.

        Once all pending tokens of a sequence are computed, a token is chosen and appended
        to its ids. A sequence that runs out of memory stays as it was.
        """
