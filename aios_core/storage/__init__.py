"""Versioned files of agents, shared mounts, and semantic search in files.

requests       the requests for files           handle          `agent.storage`
manager        serves the requests              tree_service    serves those for tree snapshots
tables         opens, reads, changes the tables watch           streams of changes
files          changes files and versions       file_queries    reads files and versions
mounts         shared host directories          tree_snapshots  the rows of tree snapshots
workspace      files for sandboxed code         rooted_dir      confines paths to a directory
file_indexer   the semantic index of files      semantic_index  the contract with that index
collections    items found by meaning
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
