"""The database schema of memory. Each script migrates it from one version to the next.

Names are plain text; contents are encoded by `codec`. `charged` is what an object takes of
its owner's quota, in bytes. `labels` mark the origin of a content, `name_labels` the origin
of a name: the agent that made the object, not agents that wrote to it later.
"""

from __future__ import annotations

from typing import Final

COMPONENT: Final = "memory"

SCHEMA: Final = (
    """
    CREATE TABLE memory_blocks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        size INTEGER NOT NULL,
        is_text INTEGER NOT NULL,
        page_bytes INTEGER NOT NULL,
        labels TEXT NOT NULL,
        is_pinned INTEGER NOT NULL,
        version INTEGER NOT NULL,  -- grows with every change
        updated_at REAL NOT NULL,
        UNIQUE (owner, name)
    );
    CREATE TABLE memory_pages (
        block INTEGER NOT NULL REFERENCES memory_blocks (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (block, number)
    );
    CREATE TABLE memory_indexed (
        block INTEGER PRIMARY KEY REFERENCES memory_blocks (id) ON DELETE CASCADE,
        version INTEGER NOT NULL,
        embedder TEXT NOT NULL
    );
    CREATE TABLE memory_vectors (
        block INTEGER NOT NULL REFERENCES memory_indexed (block) ON DELETE CASCADE,
        part INTEGER NOT NULL,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (block, part)
    );
    CREATE TABLE memory_threads (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        next_number INTEGER NOT NULL,
        UNIQUE (owner, name)
    );
    CREATE TABLE memory_messages (
        thread INTEGER NOT NULL REFERENCES memory_threads (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        content BLOB NOT NULL,
        charged INTEGER NOT NULL,
        is_archived INTEGER NOT NULL,
        labels TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (thread, number)
    );
    CREATE INDEX memory_messages_by_status ON memory_messages (thread, is_archived, number);
    CREATE TABLE memory_kv (
        owner TEXT NOT NULL,
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        is_text INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        labels TEXT NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        expires_at REAL,  -- NULL: never
        PRIMARY KEY (owner, namespace, key)
    );
    CREATE INDEX memory_kv_by_end ON memory_kv (expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE memory_usage (
        owner TEXT PRIMARY KEY,
        family TEXT NOT NULL,  -- the group
        bytes INTEGER NOT NULL CHECK (bytes >= 0)
    ) WITHOUT ROWID;
    CREATE TABLE memory_group_usage (
        family TEXT PRIMARY KEY,
        bytes INTEGER NOT NULL CHECK (bytes >= 0)
    ) WITHOUT ROWID;
    """,
    # A name can carry labeled data, so its labels stay when its content is replaced.
    """
    ALTER TABLE memory_blocks ADD COLUMN name_labels TEXT NOT NULL DEFAULT '';
    UPDATE memory_blocks SET name_labels = labels;
    ALTER TABLE memory_threads ADD COLUMN name_labels TEXT NOT NULL DEFAULT '';
    UPDATE memory_threads SET name_labels = coalesce((
        SELECT m.labels FROM memory_messages m WHERE m.thread = memory_threads.id
        ORDER BY m.number LIMIT 1
    ), '');
    ALTER TABLE memory_kv ADD COLUMN name_labels TEXT NOT NULL DEFAULT '';
    UPDATE memory_kv SET name_labels = labels;
    """,
)
