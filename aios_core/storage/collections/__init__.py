"""Collections of agents: items under keys, found by semantic search.

requests  the requests, and the access that each needs
manager   serve the requests; `Collections` is the handle of an agent
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
