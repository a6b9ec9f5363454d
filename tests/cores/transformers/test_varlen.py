"""The GPU's way to attend, with a stand-in for its kernel where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor

from aios_core.core import Finished
from aios_core.cores.transformers import TransformersCore
from aios_core.cores.transformers.attention import causal_mask
from aios_core.cores.transformers.loading import load_model
from aios_core.cores.transformers.selfcheck import check_model
from aios_core.cores.transformers.varlen import VarlenBatch
from aios_core.messages import Sampling, parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig


def varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    _max_q: int,
    _max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    num_splits: int,
) -> Tensor:
    """Compute attention as torch documents `varlen_attn`, sequence by sequence."""
    assert num_splits == 1
    out = []
    q, k = cu_seq_q.tolist(), cu_seq_k.tolist()
    for i in range(len(q) - 1):
        one = query[q[i] : q[i + 1]].transpose(0, 1)
        keys, values = (t[k[i] : k[i + 1]].transpose(0, 1) for t in (key, value))
        count, end = one.shape[1], keys.shape[1]
        left = window_size[0]
        mask = causal_mask(end - count, count, None if left < 0 else left + 1, query.device)
        out.append(
            F.scaled_dot_product_attention(
                one, keys, values, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(out)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "gpt_oss", "gemma2"])
@pytest.mark.filterwarnings("ignore")  # transformers' own, on odd configurations
def test_one_kernel_for_the_batch_computes_what_the_model_computes(
    kind: str, model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.cores.transformers.varlen.varlen_attn", varlen_reference)
    monkeypatch.setattr(VarlenBatch, "suits", staticmethod(lambda *_: True))

    checked = check_model(load_model(model_folder(kind)))

    assert checked.layout is not None
    assert checked.batch_type is VarlenBatch


def test_a_kernel_that_fails_the_check_is_not_used(
    model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VarlenBatch, "suits", staticmethod(lambda *_: True))

    checked = check_model(load_model(model_folder("llama")))  # no such kernel on a CPU

    assert checked.layout is not None
    assert checked.batch_type is not VarlenBatch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
async def test_a_model_answers_on_a_gpu(model_folder: Callable[..., Path]) -> None:
    core = TransformersCore(model_folder("llama", torch.bfloat16), device="cuda")
    rig = Rig(core, timeout_s=60.0)
    await core.start(rig.sink)
    request = LLMGenerate(parse_messages("hello"), sampling=Sampling(max_tokens=12))
    end = await rig.end(await rig.run(request))
    await core.close()

    assert isinstance(end, Finished)
