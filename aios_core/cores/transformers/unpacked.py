"""The unpacked engine: one transformers cache for each sequence, each computed alone.

Slower than packing, and correct for every architecture that transformers can cache. A
prompt is computed in one piece and generated tokens one by one, also when they are
computed again, so that a resumed answer equals an uninterrupted one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence as SequenceOf
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from aios_core.cores.transformers.engine import is_out_of_memory
from aios_core.cores.transformers.sequence import Sequence, StepResult

# The names of the cache argument, newest first; since transformers 5.24 all models use one.
_CACHE_ARGUMENTS = ("cache", "cache_params", "past_key_values")


class UnpackedCache:
    """The transformers cache of one sequence, for any kind of layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.cache: DynamicCache | None = DynamicCache(config=model.config)
        self.length = 0

    def release(self) -> None:
        self.cache, self.length = None, 0


class UnpackedEngine:
    """An engine for any causal model: it computes one sequence after the other."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        known = inspect.signature(model.forward).parameters
        self._cache_argument = next(name for name in _CACHE_ARGUMENTS if name in known)

    @torch.inference_mode()
    def step(self, sequences: SequenceOf[Sequence]) -> StepResult:
        result = StepResult()
        for sequence in sequences:
            try:
                self._advance(sequence, result)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                sequence.drop_memory()  # the cache may be half written
                result.out_of_memory.append((sequence, str(exc)))
        return result

    def _advance(self, sequence: Sequence, result: StepResult) -> None:
        memory = self._memory_of(sequence)
        start = memory.length
        end = max(sequence.num_prompt, start + 1)
        logits = self._forward(sequence.ids[start:end], memory)
        memory.length = end
        result.num_prefilled += end - start - 1
        if sequence.num_pending:
            return
        token = sequence.choose(logits)
        sequence.ids.append(token)
        result.tokens.append((sequence, token))

    def _forward(self, ids: list[int], memory: UnpackedCache) -> Tensor:
        """Run the model on `ids`; return logits [vocabulary] after the last of them."""
        arguments: dict[str, Any] = {self._cache_argument: memory.cache, "use_cache": True}
        out = self._model(input_ids=torch.tensor([ids], device=self._model.device), **arguments)
        logits: Tensor = out.logits[0, -1]
        return logits

    def _memory_of(self, sequence: Sequence) -> UnpackedCache:
        if sequence.memory is None:
            sequence.memory = UnpackedCache(self._model)
        if not isinstance(sequence.memory, UnpackedCache):
            raise TypeError(f"{sequence!r} holds the memory of another engine")
        return sequence.memory
