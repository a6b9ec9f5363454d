"""Write a store's values as JSON and read them back with their types.

Plain JSON is stored unchanged. Tuples, sets, mappings with keys other than texts, and types
of LangGraph's serializer (dates, UUIDs, bytes, decimals, paths, enums, pydantic
models, dataclasses, messages) are marked. Promise: a value that would be read back
differently is refused, and the error names its place.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol

from aios_core.errors import InvalidRequest

_MARK: Final = "\0"  # the key that holds the kind of a value that is not plain JSON
_PLAIN: Final = (type(None), bool, int, float, str)
_COLLECTIONS: Final[Mapping[str, Callable[[Iterable[Any]], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


def dump_value(value: Any, serde: SerializerProtocol, place: str) -> str:
    """Write a value as JSON.

    Raises:
        InvalidRequest: the value would be read back differently; the message names its place.
    """
    encoded = _encode(value, serde, place)
    text = json.dumps(encoded, ensure_ascii=False)
    # Half a surrogate pair has no bytes, but can be written in ASCII.
    return text if text.isascii() or _has_bytes(text) else json.dumps(encoded)


def load_value(encoded: Any, serde: SerializerProtocol) -> Any:
    """Read a value from the JSON that `dump_value` wrote."""
    if isinstance(encoded, list):
        return [load_value(each, serde) for each in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if _MARK not in encoded:
        return {key: load_value(each, serde) for key, each in encoded.items()}
    kind, content = encoded[_MARK], encoded["value"]
    if kind == "mapping":
        return {load_value(key, serde): load_value(each, serde) for key, each in content}
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](load_value(each, serde) for each in content)
    return serde.loads_typed((kind, b64decode(content)))


def _encode(value: Any, serde: SerializerProtocol, place: str) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_encode(each, serde, f"{place}[{at}]") for at, each in enumerate(value)]
    if kind is dict:
        return _encode_mapping(value, serde, place)
    if kind.__name__ in _COLLECTIONS and kind is _COLLECTIONS[kind.__name__]:
        parts = [_encode(each, serde, f"{place}[{at}]") for at, each in enumerate(value)]
        return {_MARK: kind.__name__, "value": parts}
    return _encode_object(value, serde, place)


def _encode_mapping(value: dict[Any, Any], serde: SerializerProtocol, place: str) -> Any:
    parts = {key: _encode(each, serde, f"{place}[{key!r}]") for key, each in value.items()}
    if _MARK not in parts and all(type(key) is str for key in parts):
        return parts
    pairs = [[_encode(key, serde, f"{place}: key {key!r}"), part] for key, part in parts.items()]
    return {_MARK: "mapping", "value": pairs}


def _encode_object(value: Any, serde: SerializerProtocol, place: str) -> Any:
    try:
        kind, data = serde.dumps_typed(value)
        is_same = _is_same(serde.loads_typed((kind, data)), value)
    except Exception as exc:  # a serializer or a third-party class may raise any error
        raise _refused(value, place) from exc
    if not is_same:
        raise _refused(value, place)
    return {_MARK: kind, "value": b64encode(data).decode()}


def _is_same(found: Any, value: Any) -> bool:
    if type(found) is not type(value):
        return False
    equal = found == value
    return bool(equal.all() if hasattr(equal, "all") else equal)  # arrays compare by element


def _refused(value: Any, place: str) -> InvalidRequest:
    return InvalidRequest(
        f"{place}: a {type(value).__name__} cannot be stored without loss; allowed: JSON values, "
        "tuples, sets, bytes, dates, UUIDs, and types that LangGraph's serializer (serde=) supports"
    )


def _has_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
