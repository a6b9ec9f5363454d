"""Serve agents' requests for vectors, with a bounded queue and within their budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from aios_core.errors import KernelBug, NoSuchObject, Overloaded
from aios_core.process import AgentProcess
from aios_core.retrieval.embedding import BilledEmbedder, Embed, Vector
from aios_core.syscalls import Request

MAX_WAITING: Final = 256  # requests in flight
_FIRST_GUESS_S: Final = 1.0  # assumed duration of a request, until one has ended


class EmbeddingManager:
    """Serves `llm.embed`. The kernel owns the embedder, so `close` leaves it open."""

    def __init__(self, embedder: BilledEmbedder, *, max_waiting: int = MAX_WAITING) -> None:
        self._embedder = embedder
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._mean_s = _FIRST_GUESS_S  # running mean of the duration of a request

    @property
    def name(self) -> str:
        return "llm"

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        return (Embed,)

    async def start(self) -> None:
        """Do nothing: the model loads with the first request."""

    async def perform(self, process: AgentProcess, request: Embed) -> tuple[Vector, ...]:
        """Return the vectors of a request's texts.

        Raises:
            NoSuchObject: the request names another model than the embedder's.
            Overloaded: `max_waiting` requests are in flight.
            BudgetExceeded: the agent's budget does not cover the texts.
            KernelError: the embedder failed.
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
        """Do nothing: no state is kept for an agent."""

    async def close(self) -> None:
        """Do nothing: no resource is held."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        if not 0 <= self._num_waiting <= self._max_waiting:
            raise KernelBug(f"{self._num_waiting} requests wait for the embedder")
