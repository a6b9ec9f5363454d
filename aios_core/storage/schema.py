"""The database schema of files. Each script migrates it from one version to the next.

A file is a row of `files`. Every change of it is a row of `file_versions` with the whole
content after the change: encrypted in the row if it is small, a blob if it is large. `seq`
numbers the changes of all files in the order of their commits. `labels` mark the origin of
a content, `name_labels` the origin of the paths that the file has had: the agents that made
and moved it.
"""

from __future__ import annotations

from typing import Final

COMPONENT: Final = "storage"

SCHEMA: Final = (
    """
    CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        path TEXT,  -- NULL: it was purged
        version INTEGER NOT NULL,  -- the newest
        seq INTEGER NOT NULL,  -- of the newest
        is_live INTEGER NOT NULL,
        UNIQUE (owner, path)
    );
    CREATE INDEX files_by_change ON files (seq);
    CREATE TABLE file_versions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        file INTEGER NOT NULL REFERENCES files (id),
        version INTEGER NOT NULL,
        change TEXT NOT NULL,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        charged INTEGER NOT NULL,  -- bytes of the owner's quota
        content BLOB,
        blob TEXT,  -- an address; neither: there is no content, the file was deleted
        labels TEXT NOT NULL,
        author TEXT NOT NULL,
        at REAL NOT NULL,
        UNIQUE (file, version)
    );
    CREATE INDEX file_versions_by_owner ON file_versions (owner, seq);
    CREATE TABLE file_usage (
        owner TEXT PRIMARY KEY,
        family TEXT NOT NULL,  -- the group
        bytes INTEGER NOT NULL,
        files INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX file_usage_by_group ON file_usage (family);
    CREATE TABLE file_trees (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        root TEXT NOT NULL,
        at REAL NOT NULL,
        UNIQUE (owner, name)
    );
    CREATE TABLE file_tree_entries (
        tree INTEGER NOT NULL REFERENCES file_trees (id) ON DELETE CASCADE,
        file INTEGER NOT NULL,
        version INTEGER NOT NULL,
        path TEXT NOT NULL,
        PRIMARY KEY (tree, file)
    ) WITHOUT ROWID;
    CREATE INDEX file_tree_entries_by_version ON file_tree_entries (file, version);
    CREATE TABLE mount_labels (
        mount TEXT NOT NULL,
        path TEXT NOT NULL,
        labels TEXT NOT NULL,
        PRIMARY KEY (mount, path)
    ) WITHOUT ROWID;
    """,
    # A name can carry labeled data, so its labels stay when its content is replaced.
    """
    ALTER TABLE files ADD COLUMN name_labels TEXT NOT NULL DEFAULT '[]';
    UPDATE files SET name_labels = coalesce((
        SELECT v.labels FROM file_versions v WHERE v.file = files.id ORDER BY v.version LIMIT 1
    ), '[]');
    ALTER TABLE file_trees ADD COLUMN labels TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE mount_labels ADD COLUMN name_labels TEXT NOT NULL DEFAULT '[]';
    UPDATE mount_labels SET name_labels = labels;
    """,
)
