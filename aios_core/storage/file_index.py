"""The database tables of the semantic index of files. For the database's threads.

One transaction stores a file's chunks and moves the cursor past its change, so that after a
crash the index continues exactly where it was. A chunk with an unchanged text keeps its
vector: moving a file embeds nothing, appending to it embeds only its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.retrieval.chunking import Chunk
from aios_core.retrieval.embedding import Vector
from aios_core.retrieval.nearest import Found
from aios_core.retrieval.vector_rows import index_id, put, remove
from aios_core.state import Cipher, Connection
from aios_core.storage.paths import ROOT, inside
from aios_core.storage.semantic_index import FileState, Hit

COMPONENT: Final = "file_index"
SCHEMA: Final = (
    """
    CREATE TABLE file_index (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        made_by TEXT NOT NULL,  -- embedder and settings of the chunks; others start a new index
        seq INTEGER NOT NULL  -- of the last change that is in the index
    );
    CREATE TABLE indexed_files (
        file INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        path TEXT NOT NULL,
        version INTEGER NOT NULL,
        labels TEXT NOT NULL  -- joined by line breaks
    );
    CREATE INDEX indexed_files_by_path ON indexed_files (owner, path);
    CREATE TABLE indexed_chunks (
        vector INTEGER PRIMARY KEY REFERENCES vectors (id) ON DELETE CASCADE,
        file INTEGER NOT NULL REFERENCES indexed_files (file) ON DELETE CASCADE,
        start INTEGER NOT NULL,  -- in characters
        text BLOB NOT NULL
    );
    CREATE INDEX indexed_chunks_by_file ON indexed_chunks (file);
    """,
)


@dataclass(slots=True)
class FileUpdate:
    """A change of the index of one file. `chunks` None: remove the file."""

    state: FileState
    chunks: Sequence[Chunk] | None = None
    vectors: dict[str, Vector] = field(default_factory=dict)  # by new text


@dataclass(frozen=True, slots=True)
class IndexChange:
    """The vectors that a commit added to and removed from the index of one owner."""

    owner: str
    added: Sequence[tuple[int, Vector]]
    removed: Sequence[int]


def index_name(owner: str) -> str:
    """Return the name of the vector index of an agent's files."""
    return f"files:{owner}"


def cursor(connection: Connection, made_by: str) -> int | None:
    """Return the last change that is indexed; None if there is no index by this embedder."""
    row: Any = connection.execute("SELECT seq FROM file_index WHERE made_by = ?", (made_by,))
    found = row.fetchone()
    return found[0] if found else None


def begin(connection: Connection, made_by: str) -> int:
    """Return the cursor of the index; drop an index by another embedder. Writes."""
    if (seq := cursor(connection, made_by)) is not None:
        return seq
    vectors: Any = connection.execute("SELECT vector FROM indexed_chunks").fetchall()
    remove(connection, (number for (number,) in vectors))
    connection.execute("DELETE FROM indexed_files")
    connection.execute("INSERT OR REPLACE INTO file_index VALUES (1, ?, 0)", (made_by,))
    return 0


def exists(connection: Connection) -> bool:
    """Return whether there is an index: the first search in files starts it."""
    return connection.execute("SELECT 1 FROM file_index").fetchone() is not None


def indexed_chunks(connection: Connection, cipher: Cipher, file: int) -> dict[str, int]:
    """Return the indexed chunks of a file: text -> number of its vector."""
    rows: Any = connection.execute(
        "SELECT vector, text FROM indexed_chunks WHERE file = ?", (file,)
    )
    return {_open(cipher, vector, text): vector for vector, text in rows}


def apply(
    connection: Connection, cipher: Cipher, updates: Iterable[FileUpdate], seq: int
) -> list[IndexChange]:
    """Store updates, and move the cursor to `seq`. Writes."""
    applied = [_apply(connection, cipher, update) for update in updates]
    connection.execute("UPDATE file_index SET seq = ?", (seq,))
    return applied


def _apply(connection: Connection, cipher: Cipher, update: FileUpdate) -> IndexChange:
    state = update.state
    have = indexed_chunks(connection, cipher, state.file)
    if update.chunks is None or state.path is None:
        remove(connection, have.values())
        connection.execute("DELETE FROM indexed_files WHERE file = ?", (state.file,))
        return IndexChange(state.owner, (), list(have.values()))
    connection.execute(
        """
        INSERT INTO indexed_files VALUES (?, ?, ?, ?, ?) ON CONFLICT (file) DO UPDATE SET
            owner = excluded.owner, path = excluded.path, version = excluded.version,
            labels = excluded.labels
        """,
        (state.file, state.owner, state.path, state.version, "\n".join(sorted(state.labels))),
    )
    index = index_id(connection, index_name(state.owner))
    added: list[tuple[int, Vector]] = []
    kept: set[str] = set()
    for chunk in update.chunks:
        if chunk.text in kept:
            continue  # a repeated chunk is indexed once
        kept.add(chunk.text)
        if (number := have.get(chunk.text)) is not None:
            connection.execute(
                "UPDATE indexed_chunks SET start = ? WHERE vector = ?", (chunk.start, number)
            )
        elif (vector := update.vectors.get(chunk.text)) is not None:
            (number,) = put(connection, cipher, index, (vector,))
            encrypted = cipher.encrypt(
                chunk.text.encode("utf-8", "surrogatepass"), "chunk", str(number)
            )
            connection.execute(
                "INSERT INTO indexed_chunks VALUES (?, ?, ?, ?)",
                (number, state.file, chunk.start, encrypted),
            )
            added.append((number, vector))
    outdated = [number for text, number in have.items() if text not in kept]
    remove(connection, outdated)
    return IndexChange(state.owner, added, outdated)


def vectors_below(connection: Connection, owner: str, path: str) -> frozenset[int]:
    """Return the numbers of the vectors of an owner's files at or below a path."""
    low, high = inside(path)
    rows: Any = connection.execute(
        """
        SELECT c.vector FROM indexed_files f JOIN indexed_chunks c USING (file)
        WHERE f.owner = ? AND (f.path = ? OR f.path >= ? AND f.path < ?)
        """,
        (owner, path, low, high),
    )
    return frozenset(number for (number,) in rows)


def hits(
    connection: Connection, cipher: Cipher, owner: str, path: str, found: Iterable[Found]
) -> list[Hit]:
    """Return the found chunks that are this owner's and below the path.

    An index may be outdated or wrong, so the rows decide.
    """
    low, high = inside(path)
    result = []
    for number, score in found:
        row: Any = connection.execute(
            """
            SELECT f.path, f.version, c.text, c.start, f.labels
            FROM indexed_chunks c JOIN indexed_files f USING (file)
            WHERE c.vector = ? AND f.owner = ?
                AND (? OR f.path = ? OR f.path >= ? AND f.path < ?)
            """,
            (number, owner, path == ROOT, path, low, high),
        ).fetchone()
        if row is not None:
            where, version, text, start, labels = row
            result.append(
                Hit(
                    path=where,
                    owner=owner,
                    version=version,
                    score=min(score, 1.0),
                    excerpt=_open(cipher, number, text),
                    start=start,
                    labels=frozenset(labels.split("\n")) - {""},
                )
            )
    return result


def _open(cipher: Cipher, vector: int, text: bytes) -> str:
    return cipher.decrypt(bytes(text), "chunk", str(vector)).decode("utf-8", "surrogatepass")
