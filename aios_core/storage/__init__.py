"""Versioned files of agents, shared mounts, collections, and semantic search in files.

    handle          `Storage`: `agent.storage`
    manager         serve the requests for files
    requests        these requests; `records` are their answers
    files           change files and versions in the database; `file_queries` reads them
    tables, schema  open the tables, and migrate them
    content_store   the bytes of versions; `blob_collector` removes unused ones
    tree_snapshots  which version was where; `tree_service` serves the requests for it
    mounts          host directories that agents share; `mount_service` serves requests for them
    rooted_dir      access a host directory that no path can leave
    workspace       check out files for sandboxed code, and commit the changes
    watch           streams of changes; `change_notifier` wakes them
    file_indexer    keep a semantic index of files (contract: `semantic_index`, rows: `file_index`)
    collections     items under keys, found by semantic search
    quota_accounts  charge owners for files, by the rules in `quota`
    paths, diff     normalize paths; compare contents
    background      run blocking work on storage threads

The directory and database that all this is kept in are in `aios_core.state`.
"""

from aios_core.storage.collections import CollectionItem, CollectionMatch, Collections
from aios_core.storage.handle import Storage
from aios_core.storage.manager import StorageManager
from aios_core.storage.records import (
    ChangeKind,
    FileChange,
    FileContent,
    FileVersion,
    SavedTree,
    StorageUsage,
    StoredFile,
)
from aios_core.storage.semantic_index import FileFeed, FileState, Hit, SemanticIndex
from aios_core.storage.watch import AsyncWatch, Watch
from aios_core.storage.workspace import Checkout, CommitResult, Workspaces

__all__ = [
    "AsyncWatch",
    "ChangeKind",
    "Checkout",
    "CollectionItem",
    "CollectionMatch",
    "Collections",
    "CommitResult",
    "FileChange",
    "FileContent",
    "FileFeed",
    "FileState",
    "FileVersion",
    "Hit",
    "SavedTree",
    "SemanticIndex",
    "Storage",
    "StorageManager",
    "StorageUsage",
    "StoredFile",
    "Watch",
    "Workspaces",
]
