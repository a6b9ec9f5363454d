"""Check at load time that the packed engine computes a model's own logits.

An architecture that packing does not suit gives wrong tokens without an error. So each
model is checked when it is loaded: its own `generate` writes a few tokens, and the packed
engine has to compute equal logits, with the sequence interrupted and next to another
sequence. A model that fails runs on the unpacked engine.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aios_core.cores.transformers.attention import (
    NAME,
    AttentionBinding,
    PackedBatch,
    ShapeProbe,
    UnsupportedModel,
)
from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.kv import KVAccount, KVLayout
from aios_core.cores.transformers.loading import LoadedModel
from aios_core.cores.transformers.sampling import Sampler
from aios_core.cores.transformers.sequence import Sequence
from aios_core.cores.transformers.varlen import VarlenBatch

logger = logging.getLogger(__name__)

_PROMPT: Final = 24  # tokens
_OUTPUT: Final = 8
_GREEDY: Final = Sampler(0.0, 1.0, None, 0)
# Largest difference of logits, relative to their spread. Other kernels round differently.
_TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE: Final = 0.15


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """The result of the check: how to run packed, or why that does not work."""

    layout: KVLayout | None  # None: packing does not work
    batch_type: type[PackedBatch] = PackedBatch
    problem: str = ""


def check_model(loaded: LoadedModel) -> CheckedModel:
    """Install packed attention if the model's logits stay equal under it, else change nothing."""
    fast = VarlenBatch.suits(loaded.dtype, loaded.device)
    checked = CheckedModel(None)
    for batch_type in (VarlenBatch, PackedBatch) if fast else (PackedBatch,):
        checked = _check(loaded, batch_type)
        if checked.layout is not None:
            return checked
        logger.info("%s does not suit %s: %s", batch_type.__name__, loaded.name, checked.problem)
    return checked


def _check(loaded: LoadedModel, batch_type: type[PackedBatch]) -> CheckedModel:
    model = loaded.model
    before = model.config._attn_implementation  # noqa: SLF001 - there is no public getter
    try:
        prompt = _prompt(loaded, _PROMPT, seed=1)
        output, expected = _generate(model, prompt)
        use_packed_attention(model)
        layout = find_layout(loaded)
        engine = PackedEngine(model, layout, KVAccount(), chunk_tokens=16, batch_type=batch_type)
        _compare(loaded, engine, prompt, output, expected)
    except Exception as exc:  # noqa: BLE001 - models fail in many ways; all mean: unpacked
        model.set_attn_implementation(before)
        reason = str(exc) if isinstance(exc, UnsupportedModel) else f"{type(exc).__name__}: {exc}"
        return CheckedModel(None, batch_type, reason.splitlines()[0] if reason else "unknown")
    return CheckedModel(layout, batch_type)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Replace the model's attention. Raises `UnsupportedModel` if it cannot be replaced."""
    if not model._can_set_attn_implementation():  # noqa: SLF001 - setting it would only warn
        raise UnsupportedModel("its attention is built in and cannot be replaced")
    model.set_attn_implementation(NAME)


@torch.inference_mode()
def find_layout(loaded: LoadedModel) -> KVLayout:
    """Run one forward pass to find the shapes of the model's keys and values.

    Raises `UnsupportedModel` unless every layer attends through the interface.
    """
    probe = ShapeProbe()
    binding = AttentionBinding(loaded.model)
    binding.batch = probe
    ids = torch.tensor([[1, 2]], device=loaded.device)
    positions = torch.tensor([[0, 1]], device=loaded.device)
    loaded.model(input_ids=ids, position_ids=positions, use_cache=False)
    config = loaded.model.config.get_text_config()
    if len(probe.shapes) != config.num_hidden_layers:
        raise UnsupportedModel(
            f"{len(probe.shapes)} of {config.num_hidden_layers} layers use packed attention"
        )
    if _has_window(config) and not probe.saw_window:
        raise UnsupportedModel("its sliding window reaches attention only through a mask")
    return KVLayout.of(loaded.fingerprint, probe.shapes, loaded.dtype, loaded.device)


def measure_prefill(engine: PackedEngine, loaded: LoadedModel, num_tokens: int = 128) -> float:
    """Measure roughly how many prompt tokens the engine computes per second."""
    sequence = Sequence.of(_prompt(loaded, num_tokens, seed=3), (), _GREEDY)
    started = time.perf_counter()
    engine.step([sequence])
    elapsed = time.perf_counter() - started
    computed = sequence.num_computed
    sequence.drop_memory()
    return computed / elapsed


def _compare(
    loaded: LoadedModel,
    engine: PackedEngine,
    prompt: list[int],
    output: list[int],
    expected: Tensor,
) -> None:
    """Compute the model's own tokens with the engine, and compare the logits of each.

    A second sequence joins and leaves the batch, so that each kind of batch occurs.
    """
    sequence = Sequence.of(prompt, (), _GREEDY)
    companion = Sequence.of(_prompt(loaded, 21, seed=2), (), _GREEDY)
    for i, token in enumerate(output):
        together = [sequence] if i % 3 == 1 else [sequence, companion]
        logits = engine.logits(together)[0]
        difference = float((logits.float() - expected[i]).abs().max() / expected[i].std())
        allowed = _TOLERANCE.get(loaded.dtype, _COARSE_TOLERANCE)
        if not difference <= allowed:
            raise UnsupportedModel(
                f"packed logits differ from the model's own by {difference:.2g} of their spread"
            )
        for one in together:
            one.ids.append(token)
    sequence.drop_memory()
    companion.drop_memory()


@torch.inference_mode()
def _generate(model: PreTrainedModel, prompt: list[int]) -> tuple[list[int], Tensor]:
    """Run the model's own greedy `generate`; return its tokens and logits [output, vocabulary]."""
    ids = torch.tensor([prompt], device=model.device)
    generate: Any = model.generate  # its declared types do not cover these options
    out = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=_OUTPUT,
        max_new_tokens=_OUTPUT,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits).float()


def _prompt(loaded: LoadedModel, num_tokens: int, seed: int) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    size = min(loaded.vocab_size, len(loaded.tokenizer))
    num_tokens = min(num_tokens, loaded.context_window // 2)
    return torch.randint(size, (num_tokens,), generator=random).tolist()


def _has_window(config: object) -> bool:
    kinds = getattr(config, "layer_types", None) or ()
    if kinds:
        return "sliding_attention" in kinds
    return getattr(config, "sliding_window", None) is not None and bool(
        getattr(config, "use_sliding_window", True)
    )
