"""The vectors, in the state database: what every index over them is made from.

A *space* is what is searched together: the files of one agent, or one collection.
A row never changes, and its number is random and never used twice, so that an
index is in step with the rows if it holds the same numbers. Vectors are sealed
like every value.
"""

from __future__ import annotations

import math
import secrets
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aios_core.state import Connection, Vault

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
    CREATE TABLE vector_instance (id TEXT NOT NULL)  -- tells this state directory from others
    """,
)
_ROUNDING: Final = 1e-3  # of the length of a vector of 32-bit floats
_AT_ONCE: Final = 500  # numbers in one statement

Row = tuple[int, bytes]


def space_id(connection: Connection, name: str) -> int:
    """The number of a space, which is made if need be. Writes."""
    connection.execute("INSERT OR IGNORE INTO vector_spaces (name) VALUES (?)", (name,))
    found = find_space(connection, name)
    assert found is not None  # noqa: S101 - it was just made
    return found


def find_space(connection: Connection, name: str) -> int | None:
    """The number of a space; None if there is none."""
    found: int | None = _one(connection, "SELECT id FROM vector_spaces WHERE name = ?", (name,))
    return found


def put(
    connection: Connection, vault: Vault, space: int, vectors: Iterable[Sequence[float]]
) -> list[int]:
    """Add vectors; their numbers. Writes."""
    ids = []
    for vector in vectors:
        number = secrets.randbits(62)
        sealed = vault.seal(pack(vector), "vector", str(number))
        connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (number, space, sealed))
        ids.append(number)
    return ids


def remove(connection: Connection, ids: Iterable[int]) -> None:
    """Take vectors out. Writes."""
    connection.executemany("DELETE FROM vectors WHERE id = ?", [(number,) for number in ids])


def ids_in(connection: Connection, space: int) -> set[int]:
    """The numbers of a space's vectors."""
    rows: Any = connection.execute("SELECT id FROM vectors WHERE space = ?", (space,))
    return {number for (number,) in rows}


def load(
    connection: Connection, vault: Vault, space: int, ids: Iterable[int]
) -> Iterator[list[Row]]:
    """The vectors of these numbers that the space has, some at a time, packed."""
    wanted = list(ids)
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        rows: Any = connection.execute(
            f"SELECT id, vector FROM vectors WHERE space = ? AND id IN ({marks})",  # noqa: S608
            (space, *some),
        )
        yield [(number, vault.open(bytes(blob), "vector", str(number))) for number, blob in rows]


def instance(connection: Connection) -> str:
    """A name of this state directory, made at its first use. Writes."""
    found: str | None = _one(connection, "SELECT id FROM vector_instance", ())
    if found is None:
        found = secrets.token_hex(8)
        connection.execute("INSERT INTO vector_instance VALUES (?)", (found,))
    return found


def pack(vector: Sequence[float]) -> bytes:
    """Return a vector as it is stored: of length 1, as embedders are to return it, or all zeros."""
    numbers = array("f", vector)
    length = math.hypot(*numbers)
    if length and abs(length - 1.0) > _ROUNDING:
        numbers = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def unpack(packed: bytes) -> array[float]:
    """The opposite of `pack`."""
    numbers = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _one(connection: Connection, query: str, bindings: tuple[Any, ...]) -> Any:
    row: Any = connection.execute(query, bindings).fetchone()
    return row[0] if row else None
