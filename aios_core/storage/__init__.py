"""Versioned files of agents, shared mounts, and semantic search in files.

requests       the requests for files           handle          `agent.storage`
manager        serves the requests              watch           streams of changes
files          changes of files and versions   tree_snapshots  snapshots of whole trees
file_queries   reads of files and versions
mounts         shared host directories          rooted_dir      confines paths to a directory
workspace      files for sandboxed code         semantic_index  the contract with the index
file_indexer   the semantic index of files      collections     items found by meaning
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
