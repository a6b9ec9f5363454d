"""The requests for collections, and the access that each of them needs.

A collection is a set of items under keys that is searched by meaning; the vector stores of
frameworks keep their documents in collections. `owner` is the agent that owns the
collection; None: the caller.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.messages import require_items, require_unicode
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.retrieval.embedding import Vector
from aios_core.syscalls import Discloses, Request
from aios_core.untrusted.fields import CheckedFields

T = TypeVar("T")

MAX_NAME: Final = 200  # characters of a collection's name
MAX_KEY: Final = 500  # characters of an item's key
MAX_ITEMS: Final = 2_048  # of one request


@dataclass(frozen=True, slots=True)
class CollectionItem(CheckedFields):
    """An item to store: its text is embedded and searched. `vector` None: the kernel embeds it."""

    key: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)  # a JSON object
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class CollectionMatch:
    """An item that was read or found. `score` is its cosine similarity to the query."""

    key: str
    text: str
    metadata: Mapping[str, Any]
    score: float = 1.0
    vector: Vector | None = None  # only if the search had `with_vectors`
    labels: frozenset[str] = frozenset()
    name_labels: frozenset[str] = frozenset()  # of the agent that used this key first


@dataclass(frozen=True, slots=True)
class _CollectionRequest(Request[T]):
    """A request about one collection."""

    right: ClassVar[Right] = Right.READ
    collection: str
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = self.collection
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidRequest(
                f"collection: got {shown_repr(name)}; allowed: 1 to {MAX_NAME} printable characters"
            )
        if self.owner is not None and (not isinstance(self.owner, str) or not self.owner):
            raise InvalidRequest(
                f"owner: got {shown_repr(self.owner)}; allowed: an identity, or None"
            )

    def of(self, identity: str) -> str:
        """Return the owner of the collection for a caller of that identity."""
        return self.owner or identity

    def arguments(self) -> Mapping[str, Any]:
        """Return the other arguments of the request, as plain JSON values, for the access check."""
        return {}

    def irreversible(self) -> str | None:
        """Return why the request cannot be undone; None: it can."""
        return None

    def access(self, identity: str) -> Access:
        """Return the access to the collection that the request needs."""
        return Access(
            self.kind,
            self.right,
            Resource("collection", self.of(identity), self.collection),
            self.arguments(),
            self.irreversible(),
        )


@dataclass(frozen=True, slots=True)
class CollectionPut(_CollectionRequest[tuple[str, ...]]):
    """Store items; an item replaces the one under its key. Answered with the keys."""

    kind: ClassVar[str] = "collection.put"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    items: Sequence[CollectionItem] = ()

    def __post_init__(self) -> None:
        _CollectionRequest.__post_init__(self)
        object.__setattr__(self, "items", tuple(require_items("items", self.items)))
        if len(self.items) > MAX_ITEMS:
            raise InvalidRequest(f"items: got {len(self.items):,}; allowed: up to {MAX_ITEMS:,}")
        for item in self.items:
            _require_item(item)
        if len({item.key for item in self.items}) < len(self.items):
            raise InvalidRequest("items: two have the same key; give each key once")

    def arguments(self) -> Mapping[str, Any]:
        digest = hashlib.sha256()
        for item in self.items:
            vector = None if item.vector is None else list(item.vector)
            form = [item.key, item.text, dict(item.metadata), vector]
            digest.update(json.dumps(form, sort_keys=True).encode() + b"\n")
        return {"keys": [item.key for item in self.items], "sha256": digest.hexdigest()}


@dataclass(frozen=True, slots=True)
class CollectionGet(_CollectionRequest[tuple[CollectionMatch, ...]]):
    """Read the items under some keys, in the given order; unknown keys are skipped."""

    kind: ClassVar[str] = "collection.get"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        _CollectionRequest.__post_init__(self)
        object.__setattr__(self, "keys", _checked_keys(self.keys))

    def arguments(self) -> Mapping[str, Any]:
        return {"keys": list(self.keys)}


@dataclass(frozen=True, slots=True)
class CollectionDelete(_CollectionRequest[int]):
    """Delete the items under some keys, or with None the collection. Returns how many items."""

    kind: ClassVar[str] = "collection.delete"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    keys: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _CollectionRequest.__post_init__(self)
        if self.keys is not None:
            object.__setattr__(self, "keys", _checked_keys(self.keys))

    def arguments(self) -> Mapping[str, Any]:
        return {"keys": None if self.keys is None else list(self.keys)}

    def irreversible(self) -> str | None:
        return "a collection keeps no older state" if self.keys is None else None


@dataclass(frozen=True, slots=True)
class CollectionSearch(_CollectionRequest[tuple[CollectionMatch, ...]]):
    """Find the `k` items that are nearest in meaning to a text, or to a vector, best first.

    `where` restricts the search to items with these values in their metadata; a list matches
    any of its members.
    """

    kind: ClassVar[str] = "collection.search"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    query: str | Vector = ""
    k: int = field(default=4, kw_only=True)
    where: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    with_vectors: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _CollectionRequest.__post_init__(self)
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise InvalidRequest(
                f"k: got {shown_repr(self.k)}; allowed: a whole number, at least 1"
            )
        if isinstance(self.query, str):
            require_unicode("query", self.query)
        else:
            object.__setattr__(self, "query", _checked_vector(self.query))
        if not isinstance(self.where, Mapping):
            raise InvalidRequest(f"where: got {shown_repr(self.where)}; allowed: a mapping")

    def arguments(self) -> Mapping[str, Any]:
        query = self.query if isinstance(self.query, str) else list(self.query)
        return {"query": query, "k": self.k, "where": dict(self.where)}


def _require_item(item: object) -> None:
    if not isinstance(item, CollectionItem):
        raise InvalidRequest(f"items: got {shown_repr(item)} among them; allowed: CollectionItem")
    _checked_keys((item.key,))
    if not isinstance(item.text, str):
        raise InvalidRequest(
            f"item {item.key!r}: text: got {shown_repr(item.text)}; allowed: a str"
        )
    require_unicode(f"item {item.key!r}", item.text)
    try:
        json.dumps(dict(item.metadata), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"item {item.key!r}: metadata is not a JSON object: {exc}") from exc
    if item.vector is not None:
        _checked_vector(item.vector)


def _checked_keys(keys: object) -> tuple[str, ...]:
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise InvalidRequest(f"keys: got {shown_repr(keys)}; allowed: a sequence of texts")
    for key in keys:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise InvalidRequest(f"key: got {shown_repr(key)}; allowed: 1 to {MAX_KEY} characters")
        require_unicode("key", key)
    return tuple(keys)


def _checked_vector(vector: object) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in vector)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"vector: got {shown_repr(vector)}; allowed: numbers") from exc
    if not numbers or not all(map(math.isfinite, numbers)):
        allowed = "finite numbers, at least one"
        raise InvalidRequest(f"vector: got {shown_repr(vector)}; allowed: {allowed}")
    return numbers
