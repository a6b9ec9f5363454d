"""The contract of an embedding core: texts in, vectors out.

Memory and storage search with vectors, agents and adapters ask for them; none of
them knows who makes them. The implementations are in `aios_core.cores.embedding`;
the kernel builds one and passes it to whoever searches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from aios_core.budget import Cost, Price, reserve_in_turn
from aios_core.claims import whole_number
from aios_core.counting import TokenRatio
from aios_core.errors import InvalidRequest
from aios_core.events import EventKind
from aios_core.messages import Usage, require_unicode
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request

MAX_TEXTS: Final = 2_048  # of one request
MAX_CHARS: Final = 4_000_000  # of one request, all texts together
MODEL: Final = "embedding"  # what a policy calls the kernel's embedder, whichever it is

Vector = Sequence[float]
#: Called with what happened to an agent, and the facts of it.
Tell = Callable[[EventKind, AgentProcess, Mapping[str, Any]], None]


class Embedder(Protocol):
    """Turns texts into vectors of one length, for one meaning of "near": the cosine.

    Its methods are called on the kernel's loop and never block it. Concurrent calls
    are allowed; the embedder batches and bounds its own work.
    """

    @property
    def name(self) -> str:
        """Identifies model and version, such as "hashing-1024-v1".

        Vectors are comparable only under one name, so it is stored with each of them; when
        it changes, what was indexed is embedded again.
        """

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has; 0 if that is known only after the first `embed`."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """One vector for each text, in order; of length 1, or all zeros for a text without content.

        Raises `InvalidRequest`, `RetryLater` (a provider that wants a pause) and
        `BackendError` (the model or the endpoint failed). Cancelling the await frees what
        waits for it.
        """

    async def close(self) -> None:
        """Free the model or the connections. Idempotent."""


@runtime_checkable
class Metered(Protocol):
    """An embedder whose texts cost tokens; its vectors come as `Embedded`, which counts them."""

    @property
    def model(self) -> str:
        """Under which name its price is configured."""

    def max_tokens(self, texts: Sequence[str]) -> int:
        """A bound on the tokens that the texts have, from above."""


class Embedded(list[Vector]):
    """The vectors of an embedder that counts tokens."""

    __slots__ = ("num_tokens",)

    def __init__(self, vectors: Iterable[Vector], num_tokens: int) -> None:
        super().__init__(vectors)
        self.num_tokens = num_tokens


class BilledEmbedder:
    """The kernel's embedder, for work that agents pay for and for the kernel's own.

    An agent pays what its texts cost: a bound is reserved before the call, what was used
    is booked after it. An embedder that counts no tokens costs none.

    Args:
        embedder: makes the vectors.
        prices: what a million tokens of a model cost.
        tell: hears of figures that were not believed, and of what a budget could not pay.
    """

    def __init__(
        self,
        embedder: Embedder,
        prices: Callable[[str], Price] = lambda _: Price(),
        tell: Tell = lambda *_: None,
    ) -> None:
        self._embedder = embedder
        self._prices = prices
        self._tell = tell

    @property
    def name(self) -> str:
        """See `Embedder.name`."""
        return self._embedder.name

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """See `Embedder.embed`. Nobody pays: the kernel wants it, such as an index of files."""
        return await self._embedder.embed(texts)

    async def embed_for(
        self, process: AgentProcess, texts: Sequence[str], *, calls: int = 0
    ) -> Sequence[Vector]:
        """Embed texts at an agent's expense, as so many calls.

        Waits for others to settle if too little of the budget is unreserved. Raises
        `BudgetExceeded` besides, if it needs more than is unspent.
        """
        embedder = self._embedder
        price = self._prices(embedder.model) if isinstance(embedder, Metered) else Price()
        bound = embedder.max_tokens(texts) if isinstance(embedder, Metered) else 0
        about = min(bound, _about(texts)) if bound else 0
        need = Cost(about, price.of(about, 0), calls=calls)
        reservation = await reserve_in_turn(process.budget, need)
        spent = Cost()
        try:
            vectors = await embedder.embed(texts)
            claimed = vectors.num_tokens if isinstance(vectors, Embedded) else 0
            usage = self._used(process, claimed, about, bound)
            spent = Cost(usage.input_tokens, price.of(usage.input_tokens, 0), calls=calls)
        finally:
            unpaid = reservation.settle(spent)
        if unpaid != Cost():
            self._tell(EventKind.OVERRUN, process, {"core": self.name, **asdict(unpaid)})
        books = process.accounting
        books.num_embedded += len(texts)
        books.usage += usage
        books.money += spent.money
        return vectors

    def _used(self, process: AgentProcess, claimed: object, about: int, bound: int) -> Usage:
        """The tokens that the embedder reports, if there can be so many; else the estimate."""
        number = whole_number(claimed, at_most=bound)
        if number or (number is not None and not bound):
            return Usage(input_tokens=number)
        if number is None:
            reason = f"input_tokens: claimed {shown_repr(claimed)}, which cannot be"
            facts = {"core": self.name, "reason": reason}
            self._tell(EventKind.CLAIM_REJECTED, process, facts)
        return Usage(input_tokens=about, is_estimated=True)

    async def close(self) -> None:
        """Close the embedder."""
        await self._embedder.close()


def _about(texts: Sequence[str]) -> int:
    """Estimate the tokens of texts, none of which is without any."""
    ratio = TokenRatio()
    return sum(max(1, ratio.tokens_in(text)) for text in texts)


@dataclass(frozen=True, slots=True)
class Embed(Request[tuple[Vector, ...]]):
    """The vectors of texts. `model` is the embedder's name, or None for whichever there is."""

    kind: ClassVar[str] = "llm.embed"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    texts: Sequence[str]  # kept as a tuple
    model: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not isinstance(self.texts, Sequence):
            raise InvalidRequest(
                f"texts: got {shown_repr(self.texts)}; allowed: a sequence of texts"
            )
        object.__setattr__(self, "texts", tuple(self.texts))
        for text in self.texts:
            if not isinstance(text, str):
                raise InvalidRequest(f"texts: got {shown_repr(text)} among them; allowed: texts")
            require_unicode("texts", text)
        if len(self.texts) > MAX_TEXTS:
            raise InvalidRequest(f"texts: got {len(self.texts)}; allowed: up to {MAX_TEXTS}")
        if (num_chars := sum(map(len, self.texts))) > MAX_CHARS:
            raise InvalidRequest(f"texts: {num_chars} characters; allowed: up to {MAX_CHARS}")

    def access(self, identity: str) -> Access:  # noqa: ARG002 - models are nobody's
        """To ask a model."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        arguments = {"num_texts": len(self.texts), "sha256": digest.hexdigest()}
        return Access(
            self.kind, Right.EXECUTE, Resource("model", None, self.model or MODEL), arguments
        )
