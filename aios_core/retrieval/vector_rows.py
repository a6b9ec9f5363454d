"""The vectors in the state database, from which every vector index is built.

An index is a set of vectors that are searched together: the files of one agent, or one
collection. A row never changes, and its number is random and never used twice, so that an
index equals its rows if it has the same numbers. Vectors are encrypted like every value.
"""

from __future__ import annotations

import math
import secrets
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aios_core.state import Cipher, Connection

COMPONENT: Final = "vectors"
SCHEMA: Final = (
    """
    CREATE TABLE vector_spaces (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE vectors (
        id INTEGER PRIMARY KEY,
        space INTEGER NOT NULL REFERENCES vector_spaces (id),
        vector BLOB NOT NULL  -- float32, little-endian
    );
    CREATE INDEX vectors_by_space ON vectors (space);
    CREATE TABLE vector_instance (id TEXT NOT NULL)  -- a random id of this state directory
    """,
)
_ROUNDING: Final = 1e-3  # of the length of a vector of 32-bit floats
_AT_ONCE: Final = 500  # numbers in one statement

Row = tuple[int, bytes]


def index_id(connection: Connection, name: str) -> int:
    """Return the number of an index; create it if necessary. Writes."""
    connection.execute("INSERT OR IGNORE INTO vector_spaces (name) VALUES (?)", (name,))
    found = find_index(connection, name)
    assert found is not None  # noqa: S101 - it was just made
    return found


def find_index(connection: Connection, name: str) -> int | None:
    """Return the number of an index; None if there is none of that name."""
    found: int | None = _one(connection, "SELECT id FROM vector_spaces WHERE name = ?", (name,))
    return found


def put(
    connection: Connection, cipher: Cipher, index: int, vectors: Iterable[Sequence[float]]
) -> list[int]:
    """Store vectors. Returns their numbers. Writes."""
    ids = []
    for vector in vectors:
        number = secrets.randbits(62)
        encrypted = cipher.encrypt(pack(vector), "vector", str(number))
        connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (number, index, encrypted))
        ids.append(number)
    return ids


def remove(connection: Connection, ids: Iterable[int]) -> None:
    """Delete vectors. Writes."""
    connection.executemany("DELETE FROM vectors WHERE id = ?", [(number,) for number in ids])


def ids_in(connection: Connection, index: int) -> set[int]:
    """Return the numbers of an index's vectors."""
    rows: Any = connection.execute("SELECT id FROM vectors WHERE space = ?", (index,))
    return {number for (number,) in rows}


def load(
    connection: Connection, cipher: Cipher, index: int, ids: Iterable[int]
) -> Iterator[list[Row]]:
    """Yield the packed vectors of an index that have these numbers, some at a time."""
    wanted = list(ids)
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        rows: Any = connection.execute(
            f"SELECT id, vector FROM vectors WHERE space = ? AND id IN ({marks})",  # noqa: S608
            (index, *some),
        )
        yield [
            (number, cipher.decrypt(bytes(blob), "vector", str(number))) for number, blob in rows
        ]


def state_id(connection: Connection) -> str:
    """Return the id of this state directory; make it at the first use. Writes."""
    found: str | None = _one(connection, "SELECT id FROM vector_instance", ())
    if found is None:
        found = secrets.token_hex(8)
        connection.execute("INSERT INTO vector_instance VALUES (?)", (found,))
    return found


def pack(vector: Sequence[float]) -> bytes:
    """Encode a vector as 32-bit floats, with length 1 unless it is all zeros.

    Embedders should return vectors of length 1; this normalizes those that do not.
    """
    numbers = array("f", vector)
    length = math.hypot(*numbers)
    if length and abs(length - 1.0) > _ROUNDING:
        numbers = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def unpack(packed: bytes) -> array[float]:
    """Decode a vector that `pack` encoded."""
    numbers = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _one(connection: Connection, query: str, bindings: tuple[Any, ...]) -> Any:
    row: Any = connection.execute(query, bindings).fetchone()
    return row[0] if row else None
