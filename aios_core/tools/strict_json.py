"""Strict JSON, for the arguments and results of tools.

Refuses what Python's `json` accepts against RFC 8259 and I-JSON (RFC 7493): NaN and
infinities, numbers that become infinite (1e999), lone surrogates, and a key twice in one
object; also values that are too large or too deep. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

MAX_DEPTH: Final = 64


class NotJSON(ValueError):
    """A value that is not plain JSON. `path` is the place of the fault, "" for the whole value."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def parse(text: str | bytes, max_bytes: int) -> Any:
    """Parse a JSON text of at most `max_bytes`. Raises `NotJSON`."""
    num_bytes = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "replace"))
    if num_bytes > max_bytes:
        raise NotJSON("", f"got {num_bytes:,} bytes; allowed: at most {max_bytes:,}")
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repeats,
        )
    except NotJSON:
        raise
    except (ValueError, RecursionError) as exc:
        raise NotJSON("", f"not JSON: {exc}") from exc
    return plain(value)


def plain(value: Any, path: str = "", depth: int = 0) -> Any:
    """Return a deep copy made of dict, list, str, int, float, bool and None. Raises `NotJSON`."""
    if depth > MAX_DEPTH:
        raise NotJSON(path, f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise NotJSON(path, f"{value!r} is not a JSON number")
        return float(value)
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, list | tuple):
        return [plain(one, f"{path}[{i}]", depth + 1) for i, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _key(key, path): plain(one, f"{path}.{key}" if path else str(key), depth + 1)
            for key, one in value.items()
        }
    raise NotJSON(path, f"a value of Python's type {type(value).__name__}, which JSON lacks")


def dump(value: Any) -> bytes:
    """Encode a plain value as compact UTF-8; equal values give equal bytes."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise NotJSON(path, "a text with a lone surrogate") from exc
    return str(value)


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise NotJSON(path, f"a key {key!r}; allowed: texts")
    return _text(key, path)


def _refuse_constant(name: str) -> Any:
    raise NotJSON("", f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise NotJSON("", f"the number {text[:40]} is too large")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise NotJSON("", f"the keys {twice} occur more than once")
    return found
