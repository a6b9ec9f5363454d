"""What the agent remembers, through its memory."""

from __future__ import annotations

from aios_core import NoSuchObject, ToolContext, tool
from aios_core.memory import Memory


@tool(trusted=True, idempotent=True)
def remember(key: str, value: str, context: ToolContext) -> str:
    """Remember a value under a key.

    Args:
        key: what it is called.
        value: what to remember.
    """
    Memory(context.port).write(key, value)
    return "remembered"


@tool(read_only=True, trusted=True)
def recall(key: str, context: ToolContext) -> str:
    """Recall what was remembered under a key.

    Args:
        key: what it is called.
    """
    try:
        return str(Memory(context.port).read(key))
    except NoSuchObject:
        return f"nothing is remembered under {key!r}"


@tool(read_only=True, trusted=True)
def search_memory(query: str, context: ToolContext) -> list[str]:
    """Search all that was remembered.

    Args:
        query: words that it should be about.
    """
    hits = Memory(context.port).search(query)
    return [f"{hit.block}: {hit.text}" for hit in hits]
