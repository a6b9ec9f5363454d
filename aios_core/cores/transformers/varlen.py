"""Attention of a whole batch by one GPU kernel: torch's `varlen_attn` (FlashAttention).

One call for each sequence, as on a CPU, would spend most of its time on kernel launches.
Here a layer needs a handful of launches, with `num_splits=1`: torch documents that its
results then do not depend on the rest of the batch.

State: the arithmetic around the kernel is tested on a CPU with a replacement for the
kernel; this project has not run the kernel itself, because it had no GPU. The check at
load time decides: a model that fails it uses `PackedBatch`. Two limits: each step gathers
keys and values by a copy (a paged pool would avoid that), and tokens that are computed
again without KV are computed in chunks, so a resume from text alone may round differently.
A resume with KV does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from aios_core.cores.transformers.attention import AttentionNeeds, PackedBatch
from aios_core.cores.transformers.kv import KVLayout

_DTYPES: Final = (torch.float16, torch.bfloat16)  # those that FlashAttention computes with


class VarlenBatch(PackedBatch):
    """A `PackedBatch` that attends with one kernel for each layer."""

    @staticmethod
    def suits(dtype: torch.dtype, device: torch.device) -> bool:
        """Return whether the device and number format have the kernel, so that a check pays."""
        return device.type == "cuda" and dtype in _DTYPES

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, needs: AttentionNeeds
    ) -> Tensor:
        if needs.is_plain_math or key.shape[3] != value.shape[3]:
            return super().attend(layer, query, key, value, needs)
        self.store(layer, key, value)
        key_plane, value_plane = self.layout.planes[layer]
        ends = [span.end for span in self.spans]
        out = varlen_attn(
            _by_token([query]),
            _by_token(self.keys[key_plane]),
            _by_token(self.keys[value_plane]),
            _starts(self.counts, self.layout),
            _starts(ends, self.layout),
            max(self.counts),
            max(ends),
            scale=needs.scaling,
            window_size=(-1 if needs.window is None else needs.window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
            num_splits=1,
        )
        if not isinstance(out, Tensor):
            raise TypeError(f"varlen_attn returned {type(out).__name__}")
        return out.transpose(0, 1)[None]


def _by_token(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors of [1, heads, tokens, dim] to one of [tokens, heads, dim]."""
    return torch.cat([part[0].transpose(0, 1) for part in parts])


def _starts(lengths: Sequence[int], layout: KVLayout) -> Tensor:
    """Return the start of each part, and the end of the last: [parts + 1]."""
    places = list(accumulate(lengths, initial=0))
    return torch.tensor(places, dtype=torch.int32, device=layout.device)
