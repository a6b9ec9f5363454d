"""Finding by meaning: files and collections, as vectors.

    VectorSpaces        rows of vectors, and an index over them: exact, or Chroma
    FileIndex           follows the files of agents
    CollectionManager   items under keys, for the vector stores of frameworks
    Collections         the handle on them that an agent has

Indexes are derived data: they can be dropped and are made again.
"""

from aios_core.storage.semantic.collection_requests import CollectionItem, CollectionMatch
from aios_core.storage.semantic.collections import CollectionManager, Collections
from aios_core.storage.semantic.follower import FileIndex
from aios_core.storage.semantic.spaces import VectorSpaces

__all__ = [
    "CollectionItem",
    "CollectionManager",
    "CollectionMatch",
    "Collections",
    "FileIndex",
    "VectorSpaces",
]
