"""One attention kernel for a whole batch on a GPU: torch's `varlen_attn`, FlashAttention.

A call for each sequence, as on a CPU, would spend its time in launching kernels.
Here a layer is stored, gathered and attended in a handful of launches, with
`num_splits=1`, for which torch documents results that do not depend on the rest
of the batch.

State: the arithmetic around the kernel is tested on a CPU with a stand-in for
it; the kernel itself was never run by this project, for want of a GPU. The check
at load time decides: what fails it falls back to `PackedBatch`. Two limits: the
keys and values are gathered by a copy in each step (a paged pool would avoid
that), and tokens that are computed again without KV are computed in chunks, so
a resume from text alone may round otherwise; a resume with KV does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from aios_core.cores.transformers.attention import Attending, PackedBatch
from aios_core.cores.transformers.kv import KVLayout

_DTYPES: Final = (torch.float16, torch.bfloat16)  # those that FlashAttention computes with


class VarlenBatch(PackedBatch):
    """A `PackedBatch` that attends with one kernel for each layer."""

    @staticmethod
    def suits(dtype: torch.dtype, device: torch.device) -> bool:
        """Return whether it is worth a try."""
        return device.type == "cuda" and dtype in _DTYPES

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Attending
    ) -> Tensor:
        if how.is_plain_math or key.shape[3] != value.shape[3]:
            return super().attend(layer, query, key, value, how)
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
            scale=how.scaling,
            window_size=(-1 if how.window is None else how.window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
            num_splits=1,
        )
        if not isinstance(out, Tensor):
            raise TypeError(f"varlen_attn returned {type(out).__name__}")
        return out.transpose(0, 1)[None]


def _by_token(parts: Sequence[Tensor]) -> Tensor:
    """From [1, heads, tokens, dim] each to [tokens, heads, dim], one after the other."""
    return torch.cat([part[0].transpose(0, 1) for part in parts])


def _starts(lengths: Sequence[int], layout: KVLayout) -> Tensor:
    """Where each part begins, and the end: [parts + 1]."""
    places = list(accumulate(lengths, initial=0))
    return torch.tensor(places, dtype=torch.int32, device=layout.device)
