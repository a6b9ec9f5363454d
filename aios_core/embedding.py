"""The contract of an embedding core: texts in, vectors out.

Memory and storage search with vectors, agents and adapters ask for them; none of
them knows who makes them. The implementations are in `aios_core.cores.embedding`;
the kernel builds one and passes it to whoever searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """Turns texts into vectors of one length, for one meaning of "near": the cosine.

    Its methods are called on the kernel's loop and never block it. Concurrent calls
    are allowed; the embedder batches and bounds its own work.
    """

    @property
    def name(self) -> str:
        """Identifies model and version, such as "hashing-512-v1".

        Vectors are comparable only under one name, so it is stored with each of them; when
        it changes, what was indexed is embedded again.
        """

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has; 0 if that is known only after the first `embed`."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in order; of length 1, or all zeros for a text without content.

        Raises `InvalidRequest`, `RetryLater` (a provider that wants a pause) and
        `BackendError` (the model or the endpoint failed). Cancelling the await frees what
        waits for it.
        """

    async def close(self) -> None:
        """Free the model or the connections. Idempotent."""
