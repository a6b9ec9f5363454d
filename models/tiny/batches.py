"""Dialogues as tensors: sorted by length, packed into batches of about as many tokens.

Promises: batch `(shard, index)` depends on the seed and these two numbers alone,
so that a run is taken up exactly where it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from models.tiny.data import render, training_dialogue
from models.tiny.data.dialogue import ASSISTANT, END

DIALOGUES_PER_SHARD: Final = 512
PROMPT_SHARE: Final = 0.06  # of the prompts' tokens that are learnt too
PROMPT_WEIGHT: Final = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, padded on the right; where the next token is learnt, with which weight."""

    ids: Tensor  # [sequences, tokens]
    weights: Tensor  # [sequences, tokens - 1], zero where nothing is learnt


def batches(
    tokenizer: Any, seed: int, tokens: int, shard: int = 0, index: int = 0, mixture: str = "all"
) -> Iterator[tuple[int, int, Batch]]:
    """Batches without end, from batch `index` of `shard` on, each with its place."""
    while True:
        for at, batch in enumerate(shard_batches(tokenizer, seed, tokens, shard, mixture)):
            if at >= index:
                yield shard, at, batch
        shard, index = shard + 1, 0


def shard_batches(
    tokenizer: Any, seed: int, tokens: int, shard: int, mixture: str = "all"
) -> list[Batch]:
    """The batches of one shard, in a shuffled order."""
    rng = random.Random(f"batches/{seed}/{shard}")
    texts = [
        render(training_dialogue(f"{seed}/{shard}/{at}", mixture))
        for at in range(DIALOGUES_PER_SHARD)
    ]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    rows = sorted((one.ids for one in encoded), key=len)
    groups = list(_groups(rows, tokens))
    rng.shuffle(groups)
    begin, end = (tokenizer.convert_tokens_to_ids(token) for token in (ASSISTANT, END))
    return [_batch(group, begin, end, rng) for group in groups]


def _groups(rows: Sequence[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Neighbours, as many as fit into `tokens` when padded to the longest."""
    group: list[list[int]] = []
    for row in rows:
        if group and len(row) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _batch(rows: Sequence[list[int]], begin: int, end: int, rng: random.Random) -> Batch:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        weights[at, : len(row)] = torch.tensor(_weights(row, begin, end, rng))
    return Batch(ids, weights[:, 1:])


def _weights(row: Sequence[int], begin: int, end: int, rng: random.Random) -> list[float]:
    out, inside = [], False
    for token in row:
        out.append(1.0 if inside else PROMPT_WEIGHT * (rng.random() < PROMPT_SHARE))
        inside = token == begin or (inside and token != end)
    return out
