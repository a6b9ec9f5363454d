"""The training loss of a Llama, in fewer and larger steps than the model's own forward.

One product each for queries, keys and values and for gate and up; the last layer
and the vocabulary only where a token is learnt, which is about a third of all
tokens. On a CPU this and `torch.compile` are most of the speed. Attention stays in
float32: its backward pass is more than twice as fast there as that of bfloat16.
Promises the loss that `LlamaForCausalLM` gives, which a test checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_of(
    model: Any, window: int, *, table_of: Callable[[], Tensor] | None = None, half: bool = False
) -> Loss:
    """`(ids, at, targets)`, as in a `Batch`, to the sum of the losses; bfloat16 if `half`.

    `table_of` makes the embeddings [tokens, hidden]; without it they are the model's.
    """
    config, body = model.config, model.model
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    device = body.norm.weight.device
    places = torch.arange(window, device=device).float()
    angles = torch.outer(places, body.rotary_emb.inv_freq.to(device))
    cosines, sines = (wave(torch.cat([angles, angles], -1)) for wave in (torch.cos, torch.sin))
    kind = torch.bfloat16 if half else torch.float32

    def norm(states: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(states, weight.shape, weight, config.rms_norm_eps).to(kind)

    def linear(states: Tensor, weight: Tensor) -> Tensor:
        return F.linear(states, weight.to(kind))

    def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        left, right = states.float().chunk(2, -1)
        return states * cosine + torch.cat([-right, left], -1) * sine

    def loss(ids: Tensor, at: Tensor, targets: Tensor) -> Tensor:
        rows, width = ids.shape
        cosine, sine = cosines[:width], sines[:width]
        table = table_of() if table_of else body.embed_tokens.weight
        states = F.embedding(ids, table)
        for index, layer in enumerate(body.layers):
            attention, mlp = layer.self_attn, layer.mlp
            weights = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
            mixed = linear(norm(states, layer.input_layernorm.weight), torch.cat(weights))
            query, key, value = mixed.view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(
                rotate(query, cosine, sine),
                rotate(key, cosine, sine),
                value.float(),
                is_causal=True,
            )
            seen = seen.to(kind).transpose(1, 2).reshape(rows * width, heads * size)
            states = states.view(rows * width, heads * size)
            if index == len(body.layers) - 1:
                seen, states = seen.index_select(0, at), states.index_select(0, at)
            states = states + linear(seen, attention.o_proj.weight)
            inner = norm(states, layer.post_attention_layernorm.weight)
            both = linear(inner, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            gate, up = both.chunk(2, -1)
            states = states + linear(F.silu(gate) * up, mlp.down_proj.weight)
            if index < len(body.layers) - 1:
                states = states.view(rows, width, heads * size)
        logits = linear(norm(states, body.norm.weight), table)
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    return loss
