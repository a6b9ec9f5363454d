"""The database tables of collections. Runs on the database's threads, in a transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import Conflict, InvalidRequest, QuotaExceeded
from aios_core.retrieval.embedding import Vector
from aios_core.retrieval.vector_rows import index_id, put, remove, unpack
from aios_core.state import Cipher, Connection
from aios_core.storage.collections.requests import CollectionItem, CollectionMatch

COMPONENT: Final = "collections"
SCHEMA: Final = (
    """
    CREATE TABLE collections (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        made_by TEXT NOT NULL,  -- the embedder, or "" for vectors that callers gave
        dimensions INTEGER NOT NULL,
        UNIQUE (owner, name)
    );
    CREATE TABLE collection_items (
        vector INTEGER PRIMARY KEY REFERENCES vectors (id) ON DELETE CASCADE,
        collection INTEGER NOT NULL REFERENCES collections (id),
        key TEXT NOT NULL,
        content BLOB NOT NULL,  -- JSON: text, metadata
        labels TEXT NOT NULL,  -- joined by line breaks
        charged INTEGER NOT NULL,  -- bytes of the owner's quota
        UNIQUE (collection, key)
    );
    CREATE TABLE collection_usage (
        owner TEXT PRIMARY KEY,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # A key can carry labeled data, so its labels stay when its item is replaced.
    """
    ALTER TABLE collection_items ADD COLUMN name_labels TEXT NOT NULL DEFAULT '';
    UPDATE collection_items SET name_labels = labels;
    """,
)


@dataclass(frozen=True, slots=True)
class Collection:
    """A row of `collections`."""

    id: int
    owner: str
    name: str
    made_by: str
    dimensions: int

    @property
    def index_name(self) -> str:
        """The name of the vector index of its items."""
        return f"collection:{self.id}"


def find(connection: Connection, owner: str, name: str) -> Collection | None:
    """Return the collection of that name; None if there is none."""
    row: Any = connection.execute(
        "SELECT id, owner, name, made_by, dimensions FROM collections WHERE owner = ? AND name = ?",
        (owner, name),
    ).fetchone()
    return Collection(*row) if row else None


def store(
    connection: Connection,
    cipher: Cipher,
    owner: str,
    name: str,
    items: Sequence[tuple[CollectionItem, Vector]],
    *,
    made_by: str,
    labels: frozenset[str],
    max_bytes: int | None,
) -> tuple[Collection, list[int], list[int]]:
    """Store items with their vectors. Writes.

    Returns the collection, and the numbers of the vectors that were added and removed.

    Raises:
        Conflict: the collection's vectors were made by another embedder.
        InvalidRequest: the vectors have another length than those of the collection.
        QuotaExceeded: the owner's collections exceed the quota.
    """
    dimensions = len(items[0][1])
    collection = _opened(connection, owner, name, made_by, dimensions)
    for item, vector in items:
        if len(vector) != collection.dimensions:
            raise InvalidRequest(
                f"item {item.key!r}: got a vector of {len(vector)} numbers; those of collection "
                f"{name!r} have {collection.dimensions}"
            )
    used_before = usage(connection, owner)
    named = _name_labels(connection, collection, [item.key for item, _ in items])
    removed = _drop(connection, collection, [item.key for item, _ in items])
    index = index_id(connection, collection.index_name)
    numbers = put(connection, cipher, index, (vector for _, vector in items))
    for number, (item, vector) in zip(numbers, items, strict=True):
        plain = json.dumps([item.text, dict(item.metadata)]).encode()
        content = cipher.encrypt(plain, "item", str(number))
        charged = len(plain) + len(item.key) + 4 * len(vector)
        stored_labels = "\n".join(sorted(labels))
        key_labels = named.get(item.key, stored_labels)
        connection.execute(
            "INSERT INTO collection_items VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, collection.id, item.key, content, stored_labels, charged, key_labels),
        )
        _charge(connection, owner, charged)
    used = usage(connection, owner)
    if max_bytes is not None and used > max_bytes:
        raise QuotaExceeded(
            owner,
            "bytes of collections",
            limit=max_bytes,
            used=used_before,
            requested=used - used_before,
            hint="delete items, or raise retrieval.max_collection_bytes",
        )
    return collection, numbers, removed


def delete(
    connection: Connection, owner: str, name: str, keys: Sequence[str] | None
) -> tuple[Collection | None, list[int]]:
    """Delete items, or with None the whole collection. Returns the removed vectors. Writes."""
    collection = find(connection, owner, name)
    if collection is None:
        return None, []
    if keys is not None:
        return collection, _drop(connection, collection, keys)
    rows: Any = connection.execute(
        "SELECT key FROM collection_items WHERE collection = ?", (collection.id,)
    ).fetchall()
    removed = _drop(connection, collection, [key for (key,) in rows])
    connection.execute("DELETE FROM collections WHERE id = ?", (collection.id,))
    return collection, removed


def get(
    connection: Connection, cipher: Cipher, owner: str, name: str, keys: Iterable[str]
) -> list[CollectionMatch]:
    """Return the items under some keys, in the given order; skip unknown keys."""
    collection = find(connection, owner, name)
    if collection is None:
        return []
    found = []
    for key in keys:
        row: Any = connection.execute(
            "SELECT vector FROM collection_items WHERE collection = ? AND key = ?",
            (collection.id, key),
        ).fetchone()
        if row and (match := item(connection, cipher, collection, row[0])):
            found.append(match)
    return found


def item(
    connection: Connection,
    cipher: Cipher,
    collection: Collection,
    number: int,
    *,
    score: float = 1.0,
    with_vector: bool = False,
) -> CollectionMatch | None:
    """Return the item of a vector if it is in the collection: an index may be outdated."""
    row: Any = connection.execute(
        """
        SELECT i.key, i.content, i.labels, i.name_labels, v.vector
        FROM collection_items i JOIN vectors v ON v.id = i.vector
        WHERE i.vector = ? AND i.collection = ?
        """,
        (number, collection.id),
    ).fetchone()
    if row is None:
        return None
    key, content, labels, names, packed = row
    text, metadata = json.loads(cipher.decrypt(bytes(content), "item", str(number)))
    vector = None
    if with_vector:
        vector = tuple(unpack(cipher.decrypt(bytes(packed), "vector", str(number))))
    return CollectionMatch(key, text, metadata, score, vector, _labels(labels), _labels(names))


def _labels(stored: str) -> frozenset[str]:
    return frozenset(stored.split("\n")) - {""}


def _name_labels(
    connection: Connection, collection: Collection, keys: Iterable[str]
) -> dict[str, str]:
    """Return the stored labels of the keys that exist."""
    query = "SELECT key, name_labels FROM collection_items WHERE collection = ? AND key = ?"
    rows = (connection.execute(query, (collection.id, key)).fetchone() for key in keys)
    return {str(row[0]): str(row[1]) for row in rows if row is not None}


def where(
    connection: Connection, cipher: Cipher, collection: Collection, wanted: Mapping[str, Any]
) -> frozenset[int]:
    """Return the vectors of the items with these values in their metadata. Reads all items."""
    rows: Any = connection.execute(
        "SELECT vector, content FROM collection_items WHERE collection = ?", (collection.id,)
    )
    return frozenset(
        number
        for number, content in rows
        if _has(json.loads(cipher.decrypt(bytes(content), "item", str(number)))[1], wanted)
    )


def usage(connection: Connection, owner: str) -> int:
    """Return the bytes that an owner's collections take."""
    row: Any = connection.execute(
        "SELECT bytes FROM collection_usage WHERE owner = ?", (owner,)
    ).fetchone()
    return row[0] if row else 0


def _has(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        name in metadata
        and (metadata[name] in value if isinstance(value, list) else metadata[name] == value)
        for name, value in wanted.items()
    )


def _opened(
    connection: Connection, owner: str, name: str, made_by: str, dimensions: int
) -> Collection:
    """Return a collection; create it if necessary. Raises `Conflict` for another embedder."""
    if (found := find(connection, owner, name)) is None:
        connection.execute(
            "INSERT INTO collections (owner, name, made_by, dimensions) VALUES (?, ?, ?, ?)",
            (owner, name, made_by, dimensions),
        )
        found = find(connection, owner, name)
        assert found is not None  # noqa: S101 - it was just made
    require_same_embedder(found, made_by)
    return found


def require_same_embedder(collection: Collection, made_by: str) -> None:
    """Raise `Conflict` unless the collection's vectors were made by this embedder."""
    if collection.made_by != made_by:
        theirs, ours = (who or "its callers" for who in (collection.made_by, made_by))
        raise Conflict(
            f"the vectors of collection {collection.name!r} were made by {theirs}, not by {ours}, "
            "and cannot be compared; delete the collection and put its items again"
        )


def _drop(connection: Connection, collection: Collection, keys: Iterable[str]) -> list[int]:
    removed = []
    for key in keys:
        row: Any = connection.execute(
            "SELECT vector, charged FROM collection_items WHERE collection = ? AND key = ?",
            (collection.id, key),
        ).fetchone()
        if row is not None:
            removed.append(row[0])
            _charge(connection, collection.owner, -row[1])
    remove(connection, removed)  # deletes the items too, by the foreign key
    return removed


def _charge(connection: Connection, owner: str, num_bytes: int) -> None:
    connection.execute(
        """
        INSERT INTO collection_usage VALUES (?, ?)
        ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes
        """,
        (owner, num_bytes),
    )
