"""Choose the next token from logits.

The n-th choice of a sequence depends on its logits, its seed and n, and on
nothing else: not on a generator that someone has to carry along, nor on what
other sequences of the batch drew. So the sampler's whole state is its seed, and
a resumed sequence draws what it would have drawn uninterrupted.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from aios_core.errors import InvalidRequest, SnapshotError
from aios_core.messages import Sampling

_SEED_BYTES: Final = 8
_NUCLEUS_GUESS: Final = 1024  # a nucleus is rarely larger, and sorting a whole vocabulary is slow


@dataclass(frozen=True, slots=True)
class Penalties:
    """What makes tokens less likely, or more: what was said already, and a bias for each.

    As OpenAI defines the frequency and presence penalties (over the answer so far), and
    as vLLM defines the repetition penalty (over prompt and answer).
    """

    frequency: float
    presence: float
    repetition: float
    bias: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, sampling: Sampling) -> Penalties | None:
        """The penalties that `sampling` asks for; None if they change nothing."""
        bias = sampling.logit_bias or {}
        if wrong := [token for token in bias if not token.isdecimal()]:
            raise InvalidRequest(f"logit_bias: keys are token ids, got {wrong[0]!r}")
        made = cls(
            frequency=sampling.frequency_penalty or 0.0,
            presence=sampling.presence_penalty or 0.0,
            repetition=sampling.repetition_penalty or 1.0,
            bias=tuple((int(token), float(by)) for token, by in bias.items()),
        )
        return None if made == cls(0.0, 0.0, 1.0, ()) else made

    def apply(self, logits: Tensor, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
        """Return a changed copy of the logits [vocabulary]."""
        logits = logits.float().clone()
        for token, by in self.bias:
            if token < len(logits):
                logits[token] += by
        if self.repetition != 1.0:
            seen = torch.tensor(sorted({*prompt, *output}), device=logits.device)
            old = logits[seen]
            logits[seen] = torch.where(old > 0, old / self.repetition, old * self.repetition)
        if output and (self.frequency or self.presence):
            counts = Counter(output)
            said = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device)
            logits[said] -= self.frequency * times + self.presence
        return logits


@dataclass(frozen=True, slots=True)
class Sampler:
    """How one sequence chooses its tokens."""

    temperature: float
    top_p: float
    top_k: int | None
    seed: int  # 64 bits
    min_p: float = 0.0
    penalties: Penalties | None = None

    @classmethod
    def of(cls, sampling: Sampling, state: bytes | None = None) -> Sampler:
        """The sampler that `sampling` asks for, or its continuation from a snapshot's `state`.

        Raises `SnapshotError` if `state` is not of this class.
        """
        if state is not None:
            if len(state) != _SEED_BYTES:
                raise SnapshotError(f"a sampler's state has {_SEED_BYTES} bytes, got {len(state)}")
            seed = int.from_bytes(state, "little")
        elif sampling.seed is not None:
            seed = sampling.seed % (1 << 8 * _SEED_BYTES)
        else:
            seed = secrets.randbits(8 * _SEED_BYTES)
        return cls(
            temperature=sampling.temperature or 0.0,  # greedy, where nothing was asked for
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            top_k=None if sampling.top_k == -1 else sampling.top_k,
            seed=seed,
            min_p=sampling.min_p or 0.0,
            penalties=Penalties.of(sampling),
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the largest logit, as the model computed it."""
        return self.is_greedy and self.penalties is None

    def encode(self) -> bytes | None:
        """The state for a snapshot; None if nothing is random."""
        return None if self.is_greedy else self.seed.to_bytes(_SEED_BYTES, "little")

    def choose(self, logits: Tensor, position: int) -> int:
        """The token for place `position` of the output.

        `logits`: [vocabulary], of any float type; minus infinity forbids a token.
        """
        if self.is_greedy:
            return int(logits.argmax())
        probs = torch.softmax(logits.float() / self.temperature, -1)
        if self.min_p > 0.0:
            probs = torch.where(probs >= probs.max() * self.min_p, probs, 0.0)
        tokens: Tensor | None = None
        if self.top_k is not None and self.top_k < len(probs):
            probs, tokens = probs.topk(self.top_k)
        if self.top_p < 1.0:
            probs, tokens = _nucleus(probs, tokens, self.top_p)
        cumulated = probs.cumsum(-1)
        mark = cumulated[-1] * uniform(self.seed, position)
        place = int(torch.searchsorted(cumulated, mark, right=True).clamp_(max=len(probs) - 1))
        return place if tokens is None else int(tokens[place])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on both, and looks random in each."""
    digest = hashlib.blake2b(
        position.to_bytes(8, "little"), key=seed.to_bytes(_SEED_BYTES, "little"), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _nucleus(probs: Tensor, tokens: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The most probable tokens that together have at least `top_p` of all, most probable first."""
    wanted = float(probs.sum()) * top_p
    if tokens is None:
        best, tokens = probs.topk(min(_NUCLEUS_GUESS, len(probs)))
        if float(best.sum()) < wanted:
            best, tokens = probs.sort(descending=True, stable=True)
        probs = best
    before = probs.cumsum(-1) - probs
    size = max(1, int((before < wanted).sum()))
    return probs[:size], tokens[:size]
