"""Merge fragments of structured values in a stream.

OpenAI's own client, and providers that stream more than text, follow these rules: texts
and lists are appended to, mappings merge key by key, and any other value is replaced by
the latest. A list item with an `index` extends the item of that index. Identifying keys
are repeated with each fragment and replaced, never appended to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aios_core.untrusted.arguments import copy_json

# Repeated with each fragment, or set once.
_WHOLE: Final = frozenset({"id", "type", "format", "index", "role", "name", "model", "expires_at"})


def merge_keys(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `known` extended by the fragment `more`."""
    out = dict(known)
    for key, value in more.items():
        if key in _WHOLE or key not in out or out[key] is None:
            out[key] = copy_json(key, value)
        elif value is not None:
            out[key] = _merge(out[key], value)
    return out


def _merge(known: Any, more: Any) -> Any:
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, Mapping) and isinstance(more, Mapping):
        return merge_keys(known, more)
    if isinstance(known, list) and isinstance(more, list | tuple):
        grown = list(known)
        merge_blocks(grown, more)
        return grown
    return copy_json("value", more)


def merge_blocks(known: list[Any], more: Iterable[Any]) -> None:
    """Add fragments of a list to it; a fragment with an `index` grows the item of that index."""
    for item in more:
        place = _place(known, item)
        if place is None:
            known.append(copy_json("item", item))
        else:
            known[place] = merge_keys(known[place], item)


def _place(known: list[Any], item: Any) -> int | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("index"), int):
        return None
    for place, one in enumerate(known):
        if isinstance(one, Mapping) and one.get("index") == item["index"]:
            return place
    return None


def merge_logprobs(known: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return log probabilities followed by those of the next tokens."""
    out = dict(known or {})
    for key, tokens in more.items():
        if isinstance(tokens, list) and isinstance(out.get(key), list):
            out[key] = [*out[key], *tokens]
        elif tokens is not None or key not in out:
            out[key] = tokens
    return out
