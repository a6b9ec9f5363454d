"""Run a sentence transformer: texts in, pooled and normalized states out. Blocks.

Together with `model_directory`, this replaces the sentence-transformers library (Reimers
and Gurevych, 2019): tokenize, run the transformer once, pool over the tokens, scale to
length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as chatter

from aios_core.cores.embedding.model_directory import SentenceDirectory
from aios_core.errors import ModelLoadError

_LONGEST: Final = 8_192  # tokens, where neither the files nor the model set a limit


class SentenceModel:
    """A loaded sentence transformer. Used by one thread at a time."""

    def __init__(self, directory: SentenceDirectory, device: str | None = None) -> None:
        self._pooling = directory.pooling
        try:
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                directory.transformer, local_files_only=True
            )
            loader: Any = AutoModel  # its types do not declare the report
            self._model, report = loader.from_pretrained(
                directory.transformer,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            self._model = self._model.to(self._device).eval()
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as exc:
            raise ModelLoadError(f"{directory.root} cannot be loaded: {exc}") from exc
        # A pooler on top is often left out of the files, and is not used.
        if missing := [k for k in sorted(report["missing_keys"]) if not k.startswith("pooler.")]:
            raise ModelLoadError(
                f"{directory.root}: {len(missing)} weights are missing, such as {missing[0]}"
            )
        limits = (
            directory.max_tokens,
            getattr(self._tokenizer, "model_max_length", None),
            getattr(self._model.config, "max_position_embeddings", None),
        )
        self.max_tokens = min([n for n in limits if isinstance(n, int) and n > 0] + [_LONGEST])

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Embed one batch; return a vector of length 1 for each text, and the number of tokens.

        A text is cut off after `max_tokens`.
        """
        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state
            pooled = _pool(states, inputs["attention_mask"], self._pooling)
            vectors = torch.nn.functional.normalize(pooled, dim=-1)
        num_tokens = int(inputs["attention_mask"].sum())
        return vectors.cpu().tolist(), num_tokens


def _pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool states [texts, tokens, dimensions] to [texts, dimensions]; ignore padding."""
    real = mask.unsqueeze(-1).to(states.dtype)
    if pooling == "mean":
        return (states * real).sum(1) / real.sum(1).clamp(min=1e-9)
    if pooling == "max":
        return states.masked_fill(real == 0, float("-inf")).max(1).values
    # Padding may be on either side, so the mask decides which tokens are first and last.
    places = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if pooling == "cls":
        index = places.masked_fill(mask == 0, mask.shape[1] + 1).argmin(1)
    else:
        index = places.argmax(1)
    return states[torch.arange(len(states), device=states.device), index]
