"""Embed with an OpenAI-compatible endpoint: OpenAI, vLLM, TEI, Ollama, LiteLLM ...

The client is made at the first request. Its own retries are off, since the caller decides
about retries. A status of 429 or 5xx becomes a typed error
(`aios_core.cores.endpoint.errors`); a cancelled request closes its connections.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aios_core.cores.endpoint.errors import Refusal, error_of, error_within, no_completion
from aios_core.distribution import install_command
from aios_core.errors import CoreError, KernelClosed, KernelError, ModelLoadError
from aios_core.retrieval.embedding import EmbeddedTexts, Vector
from aios_core.untrusted.reported_numbers import claimed_number

if TYPE_CHECKING:
    from types import ModuleType

    import openai

BATCH_SIZE: Final = 128
MAX_CONNECTIONS: Final = 4  # batches in flight
TIMEOUT_S: Final = 60.0  # of one batch
_WINDOW: Final = 8_192  # tokens; for errors of endpoints that do not name their limit


class OpenAIEmbedder:
    """An embedder that calls an endpoint's `/embeddings`.

    Args:
        base_url: up to and including the version, as in ``http://localhost:8000/v1``.
        model: an embedding model of the endpoint.
        api_key: None for servers that need no key.
        dimensions: of the vectors, for models that can shorten them; None: the model's own.
        batch_size: texts in one HTTP request.
        timeout_s: seconds that one batch may take.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        dimensions: int | None = None,
        batch_size: int = BATCH_SIZE,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._base_url = base_url
        self._model = model
        self._api_key = api_key
        self._wanted = dimensions
        self._dimensions = dimensions or 0
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._client: openai.AsyncOpenAI | None = None
        self._opening = asyncio.Lock()
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<OpenAIEmbedder {self.name} at {self._base_url}>"

    @property
    def name(self) -> str:
        return f"{self._model}@{self._wanted}" if self._wanted else self._model

    @property
    def model(self) -> str:
        return self._model

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def max_tokens(self, texts: Sequence[str]) -> int:
        """Bound the tokens of texts: no tokenizer makes more than one a byte and two markers."""
        return sum(len(text.encode("utf-8", "replace")) + 2 for text in texts)

    async def embed(self, texts: Sequence[str]) -> EmbeddedTexts:
        """Return the vectors of texts; zeros for blank ones.

        Raises `RateLimited`, `CoreError`, `InvalidRequest`, `NoSuchObject`.
        """
        client = await self._opened()
        places = [place for place, text in enumerate(texts) if text.strip()]
        batches = [
            places[start : start + self._batch_size]
            for start in range(0, len(places), self._batch_size)
        ]
        vectors: list[Vector] = [()] * len(texts)
        num_tokens = 0
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._embed(client, [texts[place] for place in batch]))
                    for batch in batches
                ]
        except* KernelError as errors:
            raise _first(errors) from None
        for batch, task in zip(batches, tasks, strict=True):
            made, counted = task.result()
            num_tokens += counted
            for place, vector in zip(batch, made, strict=True):
                vectors[place] = vector
        if len(places) < len(texts) and not self._dimensions:
            await self._embed(client, ["a"])  # learn the dimensions, if all texts are blank
        blank = (0.0,) * self._dimensions
        return EmbeddedTexts((vector or blank for vector in vectors), num_tokens)

    async def close(self) -> None:
        """Close the client and its connections."""
        self._is_closed = True
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
            await asyncio.sleep(0)  # the transports close in the loop's next turn

    # --- internals ---------------------------------------------------------------------------

    async def _opened(self) -> openai.AsyncOpenAI:
        async with self._opening:
            if self._is_closed:
                raise KernelClosed("the embedder is closed")
            if self._client is None:
                # Importing the client and reading certificates would block the loop.
                self._client = await asyncio.to_thread(self._open)
            return self._client

    def _open(self) -> openai.AsyncOpenAI:
        return _library().AsyncOpenAI(  # type: ignore[no-any-return]
            base_url=self._base_url,
            api_key=self._api_key or "none",  # the client requires one
            max_retries=0,
            timeout=self._timeout_s,
        )

    async def _embed(
        self, client: openai.AsyncOpenAI, texts: list[str]
    ) -> tuple[list[Vector], int]:
        """Embed one batch; return its vectors and its number of tokens."""
        library = _library()
        options: dict[str, Any] = {"dimensions": self._wanted} if self._wanted else {}
        async with self._turns:
            try:
                answer = await client.embeddings.create(
                    # Not every server supports base64, the client's default.
                    model=self._model,
                    input=texts,
                    encoding_format="float",
                    **options,
                )
                self._refuse_other_answers(answer)
                vectors = self._checked(answer, len(texts))
            except library.APIStatusError as exc:
                raise self._refused(exc) from exc
            except library.APITimeoutError as exc:
                what = f"no answer within {self._timeout_s:g} s"
                raise CoreError(self.name, what, is_retryable=True) from exc
            except library.APIConnectionError as exc:
                what = f"cannot reach {self._base_url}: {exc.__cause__ or exc}"
                raise CoreError(self.name, what, is_retryable=True) from exc
            except (library.APIError, ValueError, TypeError, AttributeError, KeyError) as exc:
                what = f"the endpoint's answer cannot be read ({exc!s:.200})"
                raise CoreError(self.name, what, is_retryable=True) from exc
        usage = getattr(answer, "usage", None)
        return vectors, claimed_number(getattr(usage, "prompt_tokens", None))

    def _refuse_other_answers(self, answer: Any) -> None:
        """Raise if an answer with status 200 holds an error object, or no vectors."""
        if isinstance(answer, str):
            raise no_completion(self.name, answer[:300], self._api_key)
        body = answer.model_dump(mode="json", warnings=False)
        if (refusal := error_within(body, {}, self._api_key)) is not None:
            raise self._as_error(refusal)
        if not body.get("data"):
            raise no_completion(self.name, json.dumps(body)[:300], self._api_key)

    def _checked(self, answer: Any, num_texts: int) -> list[Vector]:
        """Return normalized vectors in the order of the texts. Raises `ValueError`."""
        rows = sorted(answer.data, key=lambda row: row.index)
        vectors = [_normalized(row.embedding) for row in rows]
        if len(vectors) != num_texts:
            raise ValueError(f"{len(vectors)} vectors for {num_texts} texts")
        lengths = {len(vector) for vector in vectors}
        expected = self._dimensions or next(iter(lengths), 0)
        if lengths != {expected} or not expected:
            raise ValueError(f"vectors of {sorted(lengths)} numbers, not of {expected}")
        self._dimensions = expected
        return vectors

    def _refused(self, exc: openai.APIStatusError) -> KernelError:
        return self._as_error(
            Refusal.of(exc.status_code, exc.response.headers, exc.body, self._api_key)
        )

    def _as_error(self, refusal: Refusal) -> KernelError:
        return error_of(
            refusal,
            core=self.name,
            model=self._model,
            models=(self._model,),
            context_window=_WINDOW,
        )


def _library() -> ModuleType:
    try:
        import openai  # noqa: PLC0415 - slow to import, and an extra
    except ImportError as exc:
        raise ModelLoadError(
            "embedding kind 'openai' needs openai, which is not installed; "
            f"install it with: {install_command('openai')}"
        ) from exc
    return openai


def _normalized(vector: Sequence[float]) -> Vector:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length):
        raise ValueError("a number that is not finite")
    return tuple(value / length for value in vector) if length > 0 else tuple(vector)


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error of several batches."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
