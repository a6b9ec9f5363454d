"""Attention for packed batches: many sequences in one forward pass, each over its own memory.

`packed_attention` is registered with transformers' public `AttentionInterface`.
The model computes everything else on one row of tokens, [1, tokens], and calls
`packed_attention` for each layer. A `PackedBatch` describes which part of the row belongs
to which sequence; the engine puts it into the model's `AttentionBinding` before the pass.

Promise: the attention of a token is computed by equal operations on equal numbers,
independent of the other sequences in the batch. So batching, preempting and resuming
never change an answer (ENGINE.md has the measurements). That is why

- each sequence has its own attention call, without padding;
- prompts are cut at fixed places, not where a budget happens to end;
- tokens that were generated before and are computed again (a resume without KV)
  are computed one query at a time, as they were when they were generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name for it
from torch import Tensor, nn
from transformers import AttentionInterface

from aios_core.cores.transformers.kv import DeviceKV, KVLayout

NAME: Final = "aios_packed"
_BINDING: Final = "aios_binding"

Shapes = dict[int, tuple[tuple[int, int], tuple[int, int]]]


class UnsupportedModel(Exception):
    """Raised when a model's attention needs something that packing cannot do."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence within a batch."""

    memory: DeviceKV
    past: int  # tokens of the sequence before the span
    count: int
    is_replay: bool = False  # generated before: compute one query at a time, as then

    @property
    def end(self) -> int:
        return self.past + self.count


@dataclass(slots=True)
class PackedBatch:
    """The spans of one forward, in the order of their tokens, and views of their memory."""

    layout: KVLayout
    spans: Sequence[Span]
    counts: list[int] = field(init=False)
    keys: list[list[Tensor]] = field(init=False)  # for each plane and span: [1, heads, end, dim]
    fresh: list[list[Tensor]] = field(init=False)  # the part of `keys` for the span's own tokens
    saw_window: bool = field(default=False, init=False)
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.counts = [span.count for span in self.spans]
        whole = [_views(span.memory, 0, span.end) for span in self.spans]
        fresh = [_views(span.memory, span.past, span.end) for span in self.spans]
        self.keys = [list(of_plane) for of_plane in zip(*whole, strict=True)]
        self.fresh = [list(of_plane) for of_plane in zip(*fresh, strict=True)]

    def _threads(self) -> AbstractContextManager[None]:
        """Use one thread for many small attentions, which several threads would slow down.

        No head is split among threads, so their number does not change any bit of the result.
        """
        is_small = all(count == 1 for count in self.counts) and len(self.counts) > 1
        return _one_thread() if is_small else nullcontext()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, needs: AttentionNeeds
    ) -> Tensor:
        """Store the keys and values of a layer, then attend. All are [1, heads, tokens, dim]."""
        key_plane, value_plane = self.layout.planes[layer]
        keys, values = self.keys[key_plane], self.keys[value_plane]
        queries = torch.split(query, self.counts, 2)
        with self._threads():
            self.store(layer, key, value)
            parts = [
                self._attend_span(i, queries[i], keys[i], values[i], needs)
                for i in range(len(queries))
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write the batch's keys and values of a layer into the memories of its sequences."""
        key_plane, value_plane = self.layout.planes[layer]
        # One call for the whole batch. Private, but torch's optimizers depend on it as well.
        torch._foreach_copy_(
            self.fresh[key_plane] + self.fresh[value_plane],
            (*torch.split(key, self.counts, 2), *torch.split(value, self.counts, 2)),
        )

    def _attend_span(
        self, index: int, query: Tensor, keys: Tensor, values: Tensor, needs: AttentionNeeds
    ) -> Tensor:
        span = self.spans[index]
        if span.count == 1:
            return _attend_one(query, keys, values, needs)
        if span.is_replay:
            ends = range(span.past + 1, span.end + 1)
            parts = [
                _attend_one(one, keys[:, :, :end], values[:, :, :end], needs)
                for one, end in zip(torch.split(query, 1, 2), ends, strict=True)
            ]
            return torch.cat(parts, 2)
        return self._attend_chunk(index, query, keys, values, needs)

    def _attend_chunk(
        self, index: int, query: Tensor, keys: Tensor, values: Tensor, needs: AttentionNeeds
    ) -> Tensor:
        span = self.spans[index]
        window = needs.window if needs.window is not None and needs.window < span.end else None
        if span.past == 0 and window is None and not needs.is_plain_math:
            return F.scaled_dot_product_attention(
                query, keys, values, is_causal=True, scale=needs.scaling,
                enable_gqa=query.shape[1] != keys.shape[1],
            )  # fmt: skip
        mask = self._masks.get((index, window))
        if mask is None:
            mask = causal_mask(span.past, span.count, window, query.device)
            self._masks[index, window] = mask
        if needs.is_plain_math:
            return _plain_attention(query, keys, values, mask, needs)
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=needs.scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AttentionNeeds:
    """The options that a model passes to its attention."""

    scaling: float | None
    window: int | None  # tokens that a token attends to, itself included; None: all
    softcap: float | None
    sinks: Tensor | None  # [heads]: logits of a key that has no value

    @property
    def is_plain_math(self) -> bool:
        """True if no fused kernel supports these options."""
        return self.softcap is not None or self.sinks is not None


class ShapeProbe:
    """A substitute for a batch that records the shapes of a model's keys and values."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}
        self.saw_window = False

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, _needs: AttentionNeeds
    ) -> Tensor:
        if layer in self.shapes:
            raise UnsupportedModel(f"layer {layer} attends twice")
        self.shapes[layer] = (key.shape[1], key.shape[3]), (value.shape[1], value.shape[3])
        return query.new_zeros(*query.shape[:3], value.shape[3])


class AttentionBinding:
    """The link from a model's attention layers to the batch of its current forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.batch: PackedBatch | ShapeProbe | None = None
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__[_BINDING] = self


def packed_attention(  # noqa: PLR0917 - the signature is transformers'
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer for the current batch; return [1, tokens, heads, dim].

    Raises `UnsupportedModel` for arguments that are not implemented and not safe to ignore.
    """
    binding: AttentionBinding | None = module.__dict__.get(_BINDING)
    batch = None if binding is None else binding.batch
    if batch is None:
        raise UnsupportedModel("a forward pass outside of the engine")
    if attention_mask is not None or dropout or others.get("position_bias") is not None:
        raise UnsupportedModel("attention with a mask, bias or dropout of the model's own")
    if sliding_window is not None:
        batch.saw_window = True
    needs = AttentionNeeds(scaling, sliding_window, softcap, s_aux)
    out = batch.attend(int(module.layer_idx), query, key, value, needs)  # type: ignore[arg-type]
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def causal_mask(past: int, count: int, window: int | None, device: torch.device) -> Tensor:
    """Return which tokens each of the last `count` tokens attends to: [count, past + count]."""
    ones = torch.ones(count, past + count, dtype=torch.bool, device=device)
    mask = ones.tril(past)
    return mask if window is None else mask & ~ones.tril(past - window)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, needs: AttentionNeeds) -> Tensor:
    """Attend with one query over all keys, or over those of the window: [1, heads, 1, dim].

    Query heads that share a key head become several queries of that head, which needs no copy.
    """
    end = keys.shape[2]
    if needs.window is not None and needs.window < end:
        keys, values = keys[:, :, end - needs.window :], values[:, :, end - needs.window :]
    if needs.is_plain_math:
        return _plain_attention(query, keys, values, None, needs)
    heads, key_heads = query.shape[1], keys.shape[1]
    if heads == key_heads:
        return F.scaled_dot_product_attention(query, keys, values, scale=needs.scaling)
    grouped = query.reshape(1, key_heads, heads // key_heads, query.shape[3])
    out = F.scaled_dot_product_attention(grouped, keys, values, scale=needs.scaling)
    return out.reshape(1, heads, 1, values.shape[3])


def _plain_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, needs: AttentionNeeds
) -> Tensor:
    """Compute attention without a fused kernel, for soft caps (Gemma 2) and sinks (gpt-oss)."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scaling = query.shape[-1] ** -0.5 if needs.scaling is None else needs.scaling
    scores = query @ keys.mT * scaling
    if needs.softcap is not None:
        scores = torch.tanh(scores / needs.softcap) * needs.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if needs.sinks is not None:
        sinks = needs.sinks.view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], -1)
    weights = torch.softmax(scores.float(), -1).to(query.dtype)
    return weights[..., : keys.shape[2]] @ values


def _views(memory: DeviceKV, start: int, end: int) -> list[Tensor]:
    """Return views of a memory's planes from `start` to `end`: [1, heads, tokens, dim] each."""
    if len(memory.tensors) == 1:
        return list(memory.tensors[0][:, None, :, start:end].unbind())
    return [view for tensor in memory.tensors for view in tensor[:, None, :, start:end].unbind()]


_register: Callable[..., None] = AttentionInterface.register
_register(NAME, packed_attention)
