"""A plug-in to copy.

In your own distribution, list it as an entry point:

    [project.entry-points."aios.plugins"]
    example = "my_package.example"

A function with type hints and a docstring is a tool. The defaults of its declarations assume
the worst: it has effects, must not be repeated, and returns untrusted results.
"""

from __future__ import annotations

from aios_core import tool


@tool(read_only=True, trusted=True)
def count_deltas(text: str, longer_than: int = 0) -> int:
    """Count the words of a text.

    Args:
        text: what to count in.
        longer_than: count only words with more letters than this.
    """
    return sum(len(word) > longer_than for word in text.split())
