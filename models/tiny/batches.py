"""Dialogues as tensors: sorted by length, cut into batches of about as many tokens.

Promises: batch `(shard, index)` of a worker depends on the seed and these numbers
alone, so that a run is taken up exactly where it stopped; every shard has as many
batches for each worker, and those of one place are about as long, so that workers
that wait for one another after each step wait little.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import torch
from torch import Tensor

from models.tiny.data import render, training_dialogue
from models.tiny.data.dialogue import ASSISTANT, END
from models.tiny.tokenizer import WINDOW

DIALOGUES_PER_SHARD: Final = 640
_ROUND_TO: Final = 16  # tokens; widths of batches are multiples


@dataclass(frozen=True, slots=True)
class Source:
    """Where batches come from; what a worker's data depends on."""

    seed: int
    dialogues: int  # of a batch, on average
    mixture: str = "all"  # one of `data.MIXTURES`
    stages: tuple[tuple[str, int], ...] = ()  # other mixtures before it, each for so many shards
    worker: int = 0

    def mixture_of(self, shard: int) -> str:
        for mixture, count in self.stages:
            if shard < count:
                return mixture
            shard -= count
        return self.mixture


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, padded on the right, and which tokens are learnt."""

    ids: Tensor  # [sequences, tokens]
    at: Tensor  # [learnt]: places in the flattened `ids` after which a token is learnt
    targets: Tensor  # [learnt]: these tokens

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids.to(device), self.at.to(device), self.targets.to(device))


def batches(
    tokenizer: Any, source: Source, shard: int = 0, index: int = 0
) -> Iterator[tuple[int, int, Batch]]:
    """Batches without end, from batch `index` of `shard` on, each with its place."""
    while True:
        for at, batch in enumerate(shard_batches(tokenizer, source, shard)):
            if at >= index:
                yield shard, at, batch
        shard, index = shard + 1, 0


def shard_batches(tokenizer: Any, source: Source, shard: int) -> list[Batch]:
    """The batches of one shard, in a shuffled order."""
    mixture = source.mixture_of(shard)
    texts = [
        render(training_dialogue(f"{source.seed}/{source.worker}/{shard}/{at}", mixture))
        for at in range(DIALOGUES_PER_SHARD)
    ]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    rows = sorted((one.ids for one in encoded if len(one.ids) <= WINDOW), key=len)
    groups = _groups(rows, DIALOGUES_PER_SHARD // source.dialogues)
    random.Random(f"order/{source.seed}/{shard}").shuffle(groups)  # the same for all workers
    begin, end = (tokenizer.convert_tokens_to_ids(token) for token in (ASSISTANT, END))
    return [_batch(group, begin, end) for group in groups]


def _groups(rows: Sequence[list[int]], count: int) -> list[Sequence[list[int]]]:
    """Neighbours: so many groups, of about as many tokens."""
    totals = list(accumulate(map(len, rows)))
    share = totals[-1] / count
    cuts = [0, *(bisect_left(totals, share * at) + 1 for at in range(1, count)), len(rows)]
    return [rows[start:stop] for start, stop in pairwise(cuts)]


def _batch(rows: Sequence[list[int]], begin: int, end: int) -> Batch:
    width = -(-max(map(len, rows)) // _ROUND_TO) * _ROUND_TO
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    at: list[int] = []
    targets: list[int] = []
    for line, row in enumerate(rows):
        ids[line, : len(row)] = torch.tensor(row)
        for start, stop in spans(row, begin, end):
            at += range(line * width + start - 1, line * width + stop - 1)
            targets += row[start:stop]
    return Batch(ids, torch.tensor(at), torch.tensor(targets))


def spans(ids: Sequence[int], begin: int, end: int) -> list[tuple[int, int]]:
    """From where to where each of the assistant's turns goes, its end included."""
    found, start = [], None
    for at, token in enumerate(ids):
        if token == begin:
            start = at + 1
        elif token == end and start is not None:
            found.append((start, at + 1))
            start = None
    return found
