"""Choose the next token from logits.

The n-th choice of a sequence depends only on its logits, its seed and n: there is no
generator state to save, and other sequences of the batch have no influence. So the seed
is the sampler's whole state, and a resumed sequence draws the tokens that it would have
drawn without the interruption.
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
    """Changes of logits: penalties for repeated tokens, and a bias for chosen tokens.

    Frequency and presence penalties are those of OpenAI (over the answer so far), the
    repetition penalty is that of vLLM (over prompt and answer).
    """

    frequency: float
    presence: float
    repetition: float
    bias: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, sampling: Sampling) -> Penalties | None:
        """Return the penalties that `sampling` sets; None if they change nothing."""
        bias = sampling.logit_bias or {}
        if wrong := [token for token in bias if not token.isdecimal()]:
            raise InvalidRequest(f"logit_bias: got the key {wrong[0]!r}; allowed: token ids")
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
            used = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device)
            logits[used] -= self.frequency * times + self.presence
        return logits


@dataclass(frozen=True, slots=True)
class Sampler:
    """The rule by which one sequence chooses its tokens."""

    temperature: float
    top_p: float
    top_k: int | None
    seed: int  # 64 bits
    min_p: float = 0.0
    penalties: Penalties | None = None

    @classmethod
    def of(cls, sampling: Sampling, state: bytes | None = None) -> Sampler:
        """Build the sampler that `sampling` describes, or continue from a snapshot's `state`.

        Raises `SnapshotError` if another class wrote `state`.
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
            temperature=sampling.temperature or 0.0,  # greedy, unless a temperature is set
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
        """Whether the choice is always the largest logit of the model, unchanged."""
        return self.is_greedy and self.penalties is None

    def encode(self) -> bytes | None:
        """Return the state for a snapshot; None if nothing is random."""
        return None if self.is_greedy else self.seed.to_bytes(_SEED_BYTES, "little")

    def choose(self, logits: Tensor, position: int) -> int:
        """Choose the token at `position` of the output.

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
    """Return a pseudo-random number in [0, 1) that depends only on `seed` and `position`."""
    digest = hashlib.blake2b(
        position.to_bytes(8, "little"), key=seed.to_bytes(_SEED_BYTES, "little"), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _nucleus(probs: Tensor, tokens: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the fewest tokens with at least `top_p` of the probability, most probable first."""
    wanted = float(probs.sum()) * top_p
    if tokens is None:
        best, tokens = probs.topk(min(_NUCLEUS_GUESS, len(probs)))
        if float(best.sum()) < wanted:
            best, tokens = probs.sort(descending=True, stable=True)
        probs = best
    before = probs.cumsum(-1) - probs
    size = max(1, int((before < wanted).sum()))
    return probs[:size], tokens[:size]
