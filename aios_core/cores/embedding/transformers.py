"""Embed with a sentence transformer in this process, on a thread of its own.

The first request loads the model. The requests of all callers take turns batch by batch,
so that one with thousands of texts does not delay one with a single query; a cancelled
request stops before its next batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from aios_core.cores.embedding.model_directory import SentenceDirectory
from aios_core.distribution import install_command
from aios_core.errors import BackendError, KernelClosed, KernelError, ModelLoadError
from aios_core.retrieval.embedding import EmbeddedTexts, Vector
from aios_core.untrusted.third_party import describe

if TYPE_CHECKING:
    from aios_core.cores.embedding.sentence_model import SentenceModel

BATCH_SIZE = 32


class TransformersEmbedder:
    """An embedder that runs a sentence transformer in this process.

    Args:
        path: a sentence-transformer directory, or that of a plain encoder (mean pooling).
        model: the name that its price is found under; None: the directory's name.
        batch_size: texts that go through the model together.
        device: such as "cuda:0"; None: a GPU if there is one.

    Raises:
        ModelLoadError: the directory is not a model. Missing weights are found by the first
            request, which loads them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        batch_size: int = BATCH_SIZE,
        device: str | None = None,
    ) -> None:
        self._directory = SentenceDirectory.read(path)
        self._model_name = model or self._directory.root.resolve().name
        self._name = f"{self._model_name}@{self._directory.fingerprint()}"
        self._dimensions = self._directory.dimensions
        self._batch_size = batch_size
        self._device = device
        self._worker: ThreadPoolExecutor | None = None
        self._loaded: SentenceModel | None = None  # the worker's
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<TransformersEmbedder {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def model(self) -> str:
        return self._model_name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def max_tokens(self, texts: Sequence[str]) -> int:
        """Bound the tokens of texts: no tokenizer makes more than one a byte and two markers."""
        return sum(len(text.encode("utf-8", "replace")) + 2 for text in texts)

    async def embed(self, texts: Sequence[str]) -> EmbeddedTexts:
        """Return the vectors of texts; zeros for blank ones.

        Raises:
            ModelLoadError: the model cannot be loaded, or its library is not installed.
            BackendError: the model failed.
        """
        if self._is_closed:
            raise KernelClosed("the embedder is closed")
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "aios-embed")
        # Texts of similar length go together, which needs less padding. Blank ones are left out.
        order = sorted((i for i, t in enumerate(texts) if t.strip()), key=lambda i: len(texts[i]))
        vectors: list[Vector] = [()] * len(texts)
        num_tokens = 0
        loop = asyncio.get_running_loop()
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            made, counted = await loop.run_in_executor(
                self._worker, self._embed, [texts[i] for i in batch]
            )
            num_tokens += counted
            for place, vector in zip(batch, made, strict=True):
                vectors[place] = vector
        blank = (0.0,) * self._dimensions
        return EmbeddedTexts((vector or blank for vector in vectors), num_tokens)

    async def close(self) -> None:
        """Wait for the running batch, and free the model."""
        self._is_closed = True
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await asyncio.to_thread(worker.shutdown, cancel_futures=True)
        self._loaded = None

    def _embed(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """Run one batch, and load the model before the first. Called on the worker."""
        try:
            if self._loaded is None:
                from aios_core.cores.embedding.sentence_model import (  # noqa: PLC0415 - torch, if used
                    SentenceModel,
                )

                self._loaded = SentenceModel(self._directory, self._device)
            return self._loaded.embed(texts)
        except KernelError:
            raise
        except ImportError as exc:
            raise ModelLoadError(
                f"embedding kind 'transformers' needs {exc.name}, which is not installed; "
                f"install it with: {install_command('transformers')}"
            ) from exc
        except Exception as exc:
            raise BackendError(f"the embedding model {self._name} failed: {describe(exc)}") from exc
