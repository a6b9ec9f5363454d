"""The memory of agents: named blocks, conversations (threads) and key-value namespaces.

    handle          `Memory`, `agent.memory`; `handle_thread` and `handle_kv` are parts of it
    manager         `MemoryManager`: serve the requests, with the three `*_service` modules
    requests        the requests for blocks; also `thread_requests` and `kv_requests`
    records         the answers, as plain data
    blocks          the database tables of blocks and their pages
    threads, kv     the database tables of conversations and of namespaces
    block_vectors   the vectors of blocks, for semantic search
    tables, schema  open these tables, and migrate them
    codec           compress and encrypt values for the database
    resident_set    the pages of one agent that are in RAM; `resident_sets` holds those of all
    lru_k           choose the page to evict
    quotas          charge agents and groups for what they keep
    naming          check names, and search them by prefix

Files are in `aios_core.storage`; KV caches of models belong to cores and `aios_core.context`.
"""

from aios_core.memory.handle import Memory
from aios_core.memory.handle_kv import KeyValues
from aios_core.memory.handle_thread import Thread
from aios_core.memory.manager import MemoryManager
from aios_core.memory.records import (
    BlockInfo,
    KeyValue,
    MemoryHit,
    MemoryUsage,
    ThreadEntry,
)

__all__ = [
    "BlockInfo",
    "KeyValue",
    "KeyValues",
    "Memory",
    "MemoryHit",
    "MemoryManager",
    "MemoryUsage",
    "Thread",
    "ThreadEntry",
]
