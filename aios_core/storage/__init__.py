"""Versioned files of agents, shared mounts, and the search in them.

requests   what may be asked          handle     agent.storage
manager    serves it                  watch      streams of changes
files      files and versions         tree_snapshots  snapshots of whole trees
mounts     directories of the host    rooted_dir      what keeps paths inside them
workspace  files for code that runs   semantic_index  the contract with the semantic index
file_indexer  the index over files    collections     items that are found by meaning
"""

from aios_core.storage.handle import Storage
from aios_core.storage.manager import StorageManager
from aios_core.storage.records import (
    ChangeKind,
    FileChange,
    FileContent,
    FileVersion,
    SavedTree,
    StorageSpace,
    StoredFile,
)
from aios_core.storage.semantic_index import FileFeed, FileState, Hit, SemanticIndex
from aios_core.storage.watch import AsyncWatch, Watch
from aios_core.storage.workspace import Checkout, Committed, Workspaces

__all__ = [
    "AsyncWatch",
    "ChangeKind",
    "Checkout",
    "Committed",
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
    "StorageSpace",
    "StoredFile",
    "Watch",
    "Workspaces",
]
