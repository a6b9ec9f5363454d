"""Serves agents' requests for vectors: bounded, paid from their budgets, accounted.

A text of an agent costs what its embedder says (`Metered`): a bound is reserved
before the call, what was used is booked after it. An embedder that counts no
tokens costs none. What memory and storage embed to search is the kernel's own
work and nobody's bill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from aios_core.budget import Cost, Price
from aios_core.embedding import Embed, Embedded, Embedder, Metered, Vector
from aios_core.errors import KernelBug, NoSuchObject, Overloaded
from aios_core.messages import Usage
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

MAX_WAITING: Final = 256  # requests that are under way at once
RETRY_AFTER_S: Final = 1.0


class EmbeddingManager:
    """See the module. The embedder is not closed here: it is the kernel's."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        prices: Callable[[str], Price] = lambda _: Price(),
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._embedder = embedder
        self._prices = prices
        self._max_waiting = max_waiting
        self._num_waiting = 0

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
            raise Overloaded("the embedder's queue", self._max_waiting, RETRY_AFTER_S)
        price = self._prices(embedder.model) if isinstance(embedder, Metered) else Price()
        bound = embedder.max_tokens(request.texts) if isinstance(embedder, Metered) else 0
        reservation = process.budget.reserve(Cost(bound, price.of(bound, 0), calls=1))
        spent = Cost()
        self._num_waiting += 1
        try:
            vectors = await embedder.embed(request.texts)
            num_tokens = vectors.num_tokens if isinstance(vectors, Embedded) else 0
            spent = Cost(num_tokens, price.of(num_tokens, 0), calls=1)
        finally:
            self._num_waiting -= 1
            reservation.settle(spent)
        books = process.accounting
        books.num_embedded += len(request.texts)
        books.usage += Usage(input_tokens=num_tokens)
        return tuple(vectors)

    def forget(self, process: AgentProcess) -> None:
        """Nothing is kept for an agent."""

    async def close(self) -> None:
        """Nothing is held."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        if not 0 <= self._num_waiting <= self._max_waiting:
            raise KernelBug(f"{self._num_waiting} requests wait for the embedder")
