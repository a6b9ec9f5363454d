"""Serves agents' requests for vectors: bounded, and paid from their budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aios_core.errors import KernelBug, NoSuchObject, Overloaded
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder, Embed, Vector
from aios_core.syscalls import Request

MAX_WAITING: Final = 256  # requests that are under way at once
_FIRST_GUESS_S: Final = 1.0  # how long a request takes, before any has ended


class EmbeddingManager:
    """See the module. The embedder is not closed here: it is the kernel's."""

    def __init__(self, embedder: BilledEmbedder, *, max_waiting: int = MAX_WAITING) -> None:
        self._embedder = embedder
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._mean_s = _FIRST_GUESS_S  # of late

    @property
    def name(self) -> str:
        return "llm"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return (Embed,)

    async def start(self) -> None:
        """The model loads with the first request."""

    async def perform(self, process: AgentProcess, request: Embed) -> tuple[Vector, ...]:
        """The vectors.

        Raises `NoSuchObject` (another model was asked for), `Overloaded`,
        `BudgetExceeded`, and what the embedder raises.
        """
        embedder = self._embedder
        if request.model not in (None, embedder.name):
            raise NoSuchObject("embedding model", request.model, (embedder.name,))
        if self._num_waiting >= self._max_waiting:
            raise Overloaded("the embedder's queue", self._max_waiting, self._mean_s)
        self._num_waiting += 1
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            vectors = tuple(await embedder.embed_for(process, request.texts, calls=1))
            self._mean_s += (loop.time() - began_at - self._mean_s) / 8
            return vectors
        finally:
            self._num_waiting -= 1

    def forget(self, process: AgentProcess) -> None:
        """Nothing is kept for an agent."""

    async def close(self) -> None:
        """Nothing is held."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        if not 0 <= self._num_waiting <= self._max_waiting:
            raise KernelBug(f"{self._num_waiting} requests wait for the embedder")
