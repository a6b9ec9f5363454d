"""`reference/config.md`: every key with its type, default and environment variable.

Types, bounds and defaults come from the dataclasses; what a key is for stands in
`config_keys.toml`, and a key without a sentence there is a mistake.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from text import code, table

from aios_core import KernelConfig
from aios_core.config_decoder import Range, field_hints

_SENTENCES = Path(__file__).with_name("config_keys.toml")
_NO_DEFAULT = object()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the configuration, as the page writes it: `cores[].kind`, `groups.NAME.weight`."""

    name: str
    hint: Any
    default: Any


def all_keys(config: type = KernelConfig, prefix: str = "", default: Any = None) -> Iterator[Key]:
    """Yield every key of the tree, in its order."""
    hints = field_hints(config)
    for item in fields(config):
        value = _default_of(item, default)
        name = f"{prefix}.{item.name}" if prefix else item.name
        yield from _keys_at(name, hints[item.name], value)


def _keys_at(name: str, hint: Any, value: Any) -> Iterator[Key]:
    inner = [part for part in get_args(hint) if isinstance(part, type) and is_dataclass(part)]
    if isinstance(hint, type) and is_dataclass(hint):
        yield from all_keys(hint, name, value)
    elif inner:
        is_list = get_origin(hint) is tuple
        yield from all_keys(inner[0], f"{name}[]" if is_list else f"{name}.NAME")
    else:
        yield Key(name, hint, value)


def _default_of(item: Field[Any], instance: Any) -> Any:
    if instance is not None:
        return getattr(instance, item.name)
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else _NO_DEFAULT


@cache
def sentences() -> Mapping[str, Mapping[str, str]]:
    """Return what the keys, and the options of cores, are for."""
    return tomllib.loads(_SENTENCES.read_text("utf-8"))


# --- the tables -----------------------------------------------------------------------------------


def config(*prefixes: str) -> str:
    """Return the table of the keys below some prefixes; "top" is what has none."""
    _require_sentences()
    rows = [_row(key) for key in all_keys() if _belongs(key.name, prefixes)]
    return table(("Key", "Type", "Default", "Meaning"), rows)


_APART = ("tools.sandbox",)  # sections with a table of their own


def _belongs(name: str, prefixes: tuple[str, ...]) -> bool:
    if prefixes == ("top",):
        return "." not in name
    apart = [one for one in _APART if one not in prefixes and name.startswith(f"{one}.")]
    return not apart and any(name.startswith((f"{one}.", f"{one}[]")) for one in prefixes)


def _row(key: Key) -> tuple[str, str, str, str]:
    variable = "" if "[]" in key.name else f"<br><small>`{_variable(key.name)}`</small>"
    text = sentences()["keys"][key.name]
    return code(key.name) + variable, _type(key.hint, key.name), _default(key), text


def _variable(key: str) -> str:
    return "AIOS_" + key.upper().replace(".", "__")


def _require_sentences() -> None:
    known, needed = sentences()["keys"].keys(), {key.name for key in all_keys()}
    if known != needed:
        raise AssertionError(
            f"{_SENTENCES.name}: no sentence for {sorted(needed - known)}; "
            f"no such key: {sorted(known - needed)}"
        )


def _type(hint: Any, name: str) -> str:
    bounds: Range | None = None
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        return _type(parts[0], name)
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    words = _plain_type(hint, name)
    return f"{words}, {bounds}" if bounds else words


def _plain_type(hint: Any, name: str) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(code(one) for one in get_args(hint))
    if origin is tuple:
        inner = get_args(hint)[0]
        return f"list of {_type(inner, '')}" if get_origin(inner) is Literal else "list of texts"
    if origin is not None and issubclass(origin, Mapping):
        return "table"
    if hint in (int, float):
        return _unit(name, hint)
    return {str: "text", bool: "`true` or `false`"}.get(hint, "any value")


def _unit(name: str, hint: type) -> str:
    for ending, unit in {"_s": "seconds", "_bytes": "bytes", "_days": "days"}.items():
        if name.endswith(ending):
            return f"whole {unit}" if hint is int and ending == "_s" else unit
    return "whole number" if hint is int else "number"


def _default(key: Key) -> str:
    if key.default is _NO_DEFAULT:
        return "required"
    return _shown(key.default, key.name)


def _shown(value: Any, name: str) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, int) and name.endswith("_bytes"):
        return _size(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,g}"
    if isinstance(value, str):
        return code(value) if value else "empty"
    return ", ".join(_shown(one, "") for one in value) or "empty"


def _size(num_bytes: int) -> str:
    for unit, size in {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}.items():
        if num_bytes >= size and num_bytes % size == 0:
            return f"{num_bytes // size} {unit}"
    return f"{num_bytes:,}"
