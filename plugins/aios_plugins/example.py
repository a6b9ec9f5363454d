"""A plug-in to copy.

In your own distribution, name it like this:

    [project.entry-points."aios.plugins"]
    example = "my_package.example"

A function with type hints and a docstring is a tool. What it does not say about itself is
taken at its worst: that it has effects, that these cannot be repeated, and that what it
returns is a stranger's word.
"""

from __future__ import annotations

from aios_core import tool


@tool(read_only=True, trusted=True)
def count_words(text: str, longer_than: int = 0) -> int:
    """Count the words of a text.

    Args:
        text: what to count in.
        longer_than: only words with more letters than that.
    """
    return sum(len(word) > longer_than for word in text.split())
