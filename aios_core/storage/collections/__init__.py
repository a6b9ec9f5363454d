"""Collections: items under keys, found by meaning.

requests  the syscalls
manager   serves them; `Collections` is an agent's handle
table     the rows in the state database
"""

from aios_core.storage.collections.manager import CollectionManager, Collections
from aios_core.storage.collections.requests import CollectionItem, CollectionMatch

__all__ = [
    "CollectionItem",
    "CollectionManager",
    "CollectionMatch",
    "Collections",
]
