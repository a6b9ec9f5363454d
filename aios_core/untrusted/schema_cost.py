"""Bound the size of a JSON schema and the time to check it. Pure, and itself bounded.

Without patterns, references and comparisons of all items with one another, each part of a
schema is looked at once for each part of a value at most: the product of their sizes bounds
the time. Schemas that have them, or are large, are checked in a process that can be killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest

MAX_PARTS: Final = 50_000  # of a schema: keywords, names and values
MAX_CHARS: Final = 1 << 20  # of a schema's texts together
MAX_DEPTH: Final = 100
MAX_LOOKS: Final = 2_000  # parts of a schema times parts of a value, on the kernel's loop
MAX_TEXT: Final = 8_192  # characters of a value that is checked there
_MAX_ALTERNATIVES_SHOWN: Final = 50

_LINEAR: Final = frozenset(
    [
        *("type", "properties", "required", "enum", "const", "default", "description", "title"),
        *("items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength"),
        *("maxLength", "minItems", "maxItems", "examples", "additionalProperties", "anyOf"),
        *("oneOf", "allOf", "multipleOf", "format", "$schema", "minProperties", "maxProperties"),
    ]
)
_ONE: Final = ("items", "additionalProperties")
_MANY: Final = ("anyOf", "oneOf", "allOf")


def require_bounded(owner: str, schema: Any) -> int:
    """The number of parts of a schema. Raises `InvalidRequest` for one that is too large."""
    num_parts = num_chars = 0
    for depth, part in _parts(schema):
        num_parts += 1
        num_chars += len(part) if isinstance(part, str) else 0
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{owner}: its schema is nested deeper than {MAX_DEPTH} levels")
        if num_parts > MAX_PARTS or num_chars > MAX_CHARS:
            raise InvalidRequest(
                f"{owner}: its schema is too large; allowed: {MAX_PARTS:,} parts and "
                f"{MAX_CHARS:,} characters"
            )
    return num_parts


def is_linear(schema: Any) -> bool:
    """Return whether the product of the sizes bounds the time to check a value."""
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, bool):
            continue
        if not isinstance(one, Mapping) or not _LINEAR.issuperset(one):
            return False
        properties = one.get("properties", {})
        branches = [one.get(key, ()) for key in _MANY]
        if not isinstance(properties, Mapping) or not all(
            isinstance(b, list | tuple) for b in branches
        ):
            return False
        left += [*properties.values(), *(one.get(key, True) for key in _ONE)]
        left += [branch for some in branches for branch in some]
    return True


def is_quick(num_parts: int, value: Any) -> bool:
    """Return whether a value may be checked on the kernel's loop against a linear schema."""
    num_chars = 0
    for num_values, (_, part) in enumerate(_parts(value), 1):
        num_chars += len(part) if isinstance(part, str) else 1
        if num_values * num_parts > MAX_LOOKS or num_chars > MAX_TEXT:
            return False
    return True


def without_values(schema: Any) -> Any:
    """A schema for its own check: without what may be any value, however many there are."""
    if isinstance(schema, Mapping):
        return {
            key: value[:_MAX_ALTERNATIVES_SHOWN]
            if key == "enum" and isinstance(value, list)
            else without_values(value)
            for key, value in schema.items()
            if not (key in ("const", "default", "examples") and "type" in schema)
        }
    return [without_values(one) for one in schema] if isinstance(schema, list) else schema


def _parts(value: Any) -> Iterator[tuple[int, Any]]:
    """All parts of a value with their depths, the names in objects among them."""
    left = [(0, value)]
    while left:
        depth, one = left.pop()
        yield depth, one
        if isinstance(one, Mapping):
            for key, inner in one.items():
                left += [(depth + 1, key), (depth + 1, inner)]
        elif isinstance(one, list | tuple):
            left += [(depth + 1, inner) for inner in one]
