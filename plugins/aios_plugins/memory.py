"""Remember, recall and search values in the agent's memory."""

from __future__ import annotations

from aios_core import NoSuchObject, ToolContext, tool
from aios_core.memory import Memory


@tool(trusted=True, idempotent=True)
def remember(key: str, value: str, context: ToolContext) -> str:
    """Remember a value under a key.

    Args:
        key: the name of the value.
        value: the text to remember.
    """
    Memory(context.port).write(key, value)
    return "remembered"


@tool(read_only=True, trusted=True)
def recall(key: str, context: ToolContext) -> str:
    """Recall the value that was remembered under a key.

    Args:
        key: the name of the value.
    """
    try:
        return str(Memory(context.port).read(key))
    except NoSuchObject:
        return f"nothing is remembered under {key!r}"


@tool(read_only=True, trusted=True)
def search_memory(query: str, context: ToolContext) -> list[str]:
    """Search all remembered values.

    Args:
        query: words that describe what to find.
    """
    hits = Memory(context.port).search(query)
    return [f"{hit.block}: {hit.text}" for hit in hits]
