"""The memory of agents: named blocks, conversations (threads) and key-value namespaces."""

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
