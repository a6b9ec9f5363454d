"""The contract of an embedder: texts in, vectors out.

Memory and storage search by vectors, and agents and adapters request them; none of them
depends on an implementation. The implementations are in `aios_core.cores.embedding`; the
kernel builds one and passes it to its users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from aios_core.budget import Cost, Price, reserve_in_turn
from aios_core.errors import InvalidRequest
from aios_core.events import EventKind
from aios_core.messages import Usage, require_unicode
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request
from aios_core.token_estimate import TokenRatio
from aios_core.untrusted.reported_numbers import whole_number

MAX_TEXTS: Final = 2_048  # of one request
MAX_CHARS: Final = 4_000_000  # of one request, all texts together
MODEL: Final = "embedding"  # the name of the kernel's embedder in access policies

Vector = Sequence[float]
#: Called with the kind of an event, its agent and its facts.
EmitEvent = Callable[[EventKind, AgentProcess, Mapping[str, Any]], None]


class Embedder(Protocol):
    """Turns texts into vectors of one length, to be compared by cosine similarity.

    Its methods are called on the kernel's loop and must not block it. Concurrent calls are
    allowed; the embedder batches and bounds its own work.
    """

    @property
    def name(self) -> str:
        """Identifies model and version, such as "hashing-1024-v1".

        Vectors are comparable only under one name, so it is stored with each of them; when
        it changes, what was indexed is embedded again.
        """

    @property
    def dimensions(self) -> int:
        """The length of a vector; 0 if it is known only after the first `embed`."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return one vector for each text, in order; of norm 1, or zeros for an empty text.

        Raises `InvalidRequest`, `RetryLater` (a provider that wants a pause) and
        `BackendError` (the model or the endpoint failed). Cancelling the await frees
        everything that the call holds.
        """

    async def close(self) -> None:
        """Free the model or the connections. Idempotent."""


@runtime_checkable
class MeteredEmbedder(Protocol):
    """An embedder that costs tokens; its `embed` returns `EmbeddedTexts`, which counts them."""

    @property
    def model(self) -> str:
        """The name under which its price is configured."""

    def max_tokens(self, texts: Sequence[str]) -> int:
        """Return an upper bound on the tokens of the texts."""


class EmbeddedTexts(list[Vector]):
    """The vectors of an embedder that counts tokens."""

    __slots__ = ("num_tokens",)

    def __init__(self, vectors: Iterable[Vector], num_tokens: int) -> None:
        super().__init__(vectors)
        self.num_tokens = num_tokens


class BilledEmbedder:
    """The kernel's embedder, which charges agents for their texts.

    An estimate is reserved before the call, and the tokens used are charged after it. An
    embedder that counts no tokens costs nothing.

    Args:
        embedder: makes the vectors.
        prices: returns the price of a model's tokens.
        emit: is called with events: rejected figures, and costs that a budget could not pay.
    """

    def __init__(
        self,
        embedder: Embedder,
        prices: Callable[[str], Price] = lambda _: Price(),
        emit: EmitEvent = lambda *_: None,
    ) -> None:
        self._embedder = embedder
        self._prices = prices
        self._emit = emit

    @property
    def name(self) -> str:
        """The embedder's name: its model and version."""
        return self._embedder.name

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed texts at no agent's expense, for the kernel's own work such as a file index."""
        return await self._embedder.embed(texts)

    async def embed_for(
        self, process: AgentProcess, texts: Sequence[str], *, calls: int = 0
    ) -> Sequence[Vector]:
        """Embed texts at an agent's expense, as so many calls.

        Waits for other reservations to settle if too little of the budget is unreserved. Also
        raises `BudgetExceeded`, if it needs more than is unspent.
        """
        embedder = self._embedder
        price = self._prices(embedder.model) if isinstance(embedder, MeteredEmbedder) else Price()
        bound = embedder.max_tokens(texts) if isinstance(embedder, MeteredEmbedder) else 0
        about = min(bound, _about(texts)) if bound else 0
        need = Cost(about, price.of(about, 0), calls=calls)
        reservation = await reserve_in_turn(process.budget, need)
        spent = Cost()
        try:
            vectors = await embedder.embed(texts)
            claimed = vectors.num_tokens if isinstance(vectors, EmbeddedTexts) else 0
            usage = self._used(process, claimed, about, bound)
            spent = Cost(usage.input_tokens, price.of(usage.input_tokens, 0), calls=calls)
        finally:
            unpaid = reservation.settle(spent)
        if unpaid != Cost():
            self._emit(EventKind.OVERRUN, process, {"core": self.name, **asdict(unpaid)})
        books = process.accounting
        books.num_embedded += len(texts)
        books.usage += usage
        books.money += spent.money
        return vectors

    def _used(self, process: AgentProcess, claimed: object, about: int, bound: int) -> Usage:
        """Return the tokens that the embedder reports, or the estimate if they are impossible."""
        number = whole_number(claimed, at_most=bound)
        if number or (number is not None and not bound):
            return Usage(input_tokens=number)
        if number is None:
            reason = f"input_tokens: claimed {shown_repr(claimed)}, which cannot be"
            facts = {"core": self.name, "reason": reason}
            self._emit(EventKind.CLAIM_REJECTED, process, facts)
        return Usage(input_tokens=about, is_estimated=True)

    async def close(self) -> None:
        """Close the embedder."""
        await self._embedder.close()


def _about(texts: Sequence[str]) -> int:
    """Estimate the tokens of texts, at least one each."""
    ratio = TokenRatio()
    return sum(max(1, ratio.tokens_in(text)) for text in texts)


@dataclass(frozen=True, slots=True)
class Embed(Request[tuple[Vector, ...]]):
    """Embed texts. `model` is the embedder's name, or None for the kernel's embedder."""

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

    def access(self, identity: str) -> Access:  # noqa: ARG002 - models are unowned
        """Call a model."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        arguments = {"num_texts": len(self.texts), "sha256": digest.hexdigest()}
        return Access(
            self.kind, Right.EXECUTE, Resource("model", None, self.model or MODEL), arguments
        )
