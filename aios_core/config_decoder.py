"""From plain data to a tree of frozen dataclasses, checked against their annotations.

The annotations are the whole schema: dataclasses, `X | None`, `Literal`, `Mapping[str, X]`,
`tuple[X, ...]`, `str`, `bool`, `int`, `float` and `Any`, with `Annotated[int, Range(1)]` where a
number has other bounds than the usual ones (it is finite and not negative). A dataclass may check
more in its ``__post_init__``; a `ConfigError` raised there names its own field, and the path to it
is put in front here. A `Place` with a list of `mistakes` collects errors instead of raising the
first: a bad entry is left out, and the rest is decoded. Pure: reads no file and no environment.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from aios_core.errors import ConfigError
from aios_core.suggestions import suggest, unknown_name
from aios_core.untrusted.arguments import MAX_INTEGER, exact_text, is_unicode
from aios_core.untrusted.third_party import describe, detach


@dataclass(frozen=True, slots=True)
class Range:
    """The range of numbers that a configuration key allows."""

    least: float = 0
    most: float = math.inf
    is_open: bool = False  # then `least` itself is not one of them

    def __contains__(self, number: float) -> bool:
        if (isinstance(number, int) and abs(number) > MAX_INTEGER) or not math.isfinite(number):
            return False
        above = number > self.least if self.is_open else number >= self.least
        return above and number <= self.most

    def __str__(self) -> str:
        lower = f"above {self.least:g}" if self.is_open else f"at least {self.least:g}"
        return lower if math.isinf(self.most) else f"{lower} and at most {self.most:g}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, for the messages."""

    key: str
    source: str
    is_text: bool = False  # it came as text and has yet to be parsed
    mistakes: list[ConfigError] | None = None  # collects errors of entries; None: the first raises

    def at(self, key: str) -> Place:
        return replace(self, key=f"{self.key}.{key}" if self.key else key)

    def item(self, index: int) -> Place:
        return replace(self, key=f"{self.key}[{index}]")

    def refuse(self, got: object, allowed: str) -> ConfigError:
        return ConfigError(self.key, got, allowed, self.source)


def decode(hint: Any, value: Any, place: Place, base: Any = None) -> Any:
    """`value` as what `hint` asks for; tables are laid over those of `base`.

    Raises:
        ConfigError: names the key, what it was, what it may be and where it came from.
    """
    try:
        return _decode(hint, value, place, base)
    except (ConfigError, _LeftOut):
        raise
    except Exception as exc:  # noqa: BLE001 - of the value's own methods
        raise place.refuse(value, f"a value that can be read: {describe(exc)}") from detach(exc)


def _decode(  # noqa: PLR0911 - one for each kind of annotation
    hint: Any, value: Any, place: Place, base: Any
) -> Any:
    hint, bounds = _unwrap(hint)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _decode_optional(hint, value, place, base)
    if place.is_text and hint is not str and isinstance(value, str):
        value, place = _parse_text(hint, value, place)
    if hint is Any:
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return _decode_table(hint, value, place, base)
    if origin is Literal:
        return _decode_choice(get_args(hint), value, place)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(get_args(hint)[1], value, place, base)
    if origin is tuple:
        return _decode_list(get_args(hint)[0], value, place)
    return _decode_scalar(hint, bounds, value, place)


def is_decodable(hint: Any) -> bool:
    """Return whether `decode` understands an annotation."""
    hint, _ = _unwrap(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = [part for part in parts if part is not NoneType]
        return len(inner) == 1 and is_decodable(inner[0])
    if origin is Literal or hint is Any or hint in _SCALARS:
        return True
    if origin is tuple:
        return len(parts) == 2 and parts[1] is Ellipsis and is_decodable(parts[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return parts[0] is str and is_decodable(parts[1])
    return isinstance(hint, type) and is_dataclass(hint)


def field_hints(table: type) -> Mapping[str, Any]:
    """The fields of a dataclass, with their annotations."""
    hints = _all_hints(table)
    return {item.name: hints[item.name] for item in fields(table)}


@cache
def _all_hints(table: Any) -> Mapping[str, Any]:
    return get_type_hints(table, include_extras=True)


def _unwrap(hint: Any) -> tuple[Any, Range]:
    """The type and the range of `Annotated[type, range]`."""
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
        return hint, bounds
    return hint, Range()


def _decode_optional(hint: Any, value: Any, place: Place, base: Any) -> Any:
    """The only unions of the tree are `X | None`. TOML has no null: "none" stands for it."""
    (inner,) = (part for part in get_args(hint) if part is not NoneType)
    is_none = value is None or (value == "none" and inner is not str)
    return None if is_none else decode(inner, value, place, base)


def _decode_table(table: type, value: Any, place: Place, base: Any) -> Any:
    if isinstance(value, table):
        value = {name: getattr(value, name) for name in field_hints(table)}
    _require_table(value, place)
    hints = field_hints(table)
    changes = {}
    for name, given in value.items():
        with _collecting(place):
            if name not in hints:
                raise _unknown_key(name, given, hints, place)
            changes[name] = decode(hints[name], given, place.at(name), getattr(base, name, None))
    try:
        return table(**changes) if base is None else replace(base, **changes)
    except (ConfigError, TypeError) as exc:
        if len(changes) < len(value):  # a consequence of what was left out
            raise _LeftOut from exc
        raise _incomplete(table, changes, value, place, exc) from exc


class _LeftOut(Exception):
    """A table cannot be built since an entry of it was left out; that mistake is recorded."""


@contextmanager
def _collecting(place: Place) -> Iterator[None]:
    """Record the error of one entry, where errors are collected; the entry is left out."""
    try:
        yield
    except ConfigError as exc:
        if place.mistakes is None:
            raise
        place.mistakes.append(exc)
    except _LeftOut:
        if place.mistakes is None:
            raise


def _incomplete(
    table: type, changes: Mapping[str, Any], value: Any, place: Place, exc: Exception
) -> ConfigError:
    """Return the error of a table that its own constructor refuses."""
    if isinstance(exc, ConfigError):
        key = place.at(exc.key).key
        return ConfigError(key, exc.got, exc.allowed, exc.source or place.source)
    missing = [item.name for item in fields(table) if item.name not in changes]
    return place.refuse(value, f"a table that has also {' or '.join(missing)}")


def _unknown_key(name: Any, value: Any, known: Iterable[str], place: Place) -> ConfigError:
    return place.at(str(name)).refuse(value, unknown_name("key", str(name), known))


def _decode_mapping(inner: Any, value: Any, place: Place, base: Any) -> dict[str, Any]:
    _require_table(value, place)
    merged = dict(base or {})
    for name, given in value.items():
        with _collecting(place):
            merged[name] = decode(inner, given, place.at(name), merged.get(name))
    return merged


def _require_table(value: Any, place: Place) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        own = "; each of its keys has a variable of its own, behind two underscores"
        is_variable = place.source.startswith("environment variable")
        raise place.refuse(value, f"a table{own if is_variable else ''}")


def _decode_list(inner: Any, value: Any, place: Place) -> tuple[Any, ...]:
    """A list replaces the one below it; it is never merged."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise place.refuse(value, "a list")
    items = []
    for index, item in enumerate(value):
        num_before = len(place.mistakes or ())
        with _collecting(place):
            decoded = decode(inner, item, place.item(index))
            if len(place.mistakes or ()) == num_before:  # half an item is another one
                items.append(decoded)
    return tuple(items)


def _decode_choice(choices: tuple[Any, ...], value: Any, place: Place) -> Any:
    text = exact_text(value) if isinstance(value, str) else None
    if text in choices:
        return text
    named = ", ".join(repr(choice) for choice in choices)
    hint = suggest(text, map(str, choices)) if text else ""
    raise place.refuse(value, f"one of {named}; {hint}" if hint else f"one of {named}")


_SCALARS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def _decode_scalar(hint: Any, bounds: Range, value: Any, place: Place) -> Any:
    is_number = hint in (int, float)
    allowed = f"{_SCALARS[hint]}, {bounds}" if is_number else _SCALARS[hint]
    kinds = (int, float) if hint is float else hint
    if not isinstance(value, kinds) or (is_number and isinstance(value, bool)):
        raise place.refuse(value, allowed)
    if is_number and value not in bounds:
        beyond = ", of 64 bits" if isinstance(value, int) and abs(value) > MAX_INTEGER else ""
        raise place.refuse(value, allowed + beyond)
    if hint is str:
        return _decode_text(value, place)
    return float(value) if hint is float else value


def _decode_text(value: Any, place: Place) -> str:
    """A text that can be a name, a path or a variable's value."""
    text = exact_text(value)
    if "\0" in text or not is_unicode(text):
        raise place.refuse(text, "a text without NUL, of valid Unicode")
    return text


def _parse_text(hint: Any, text: str, place: Place) -> tuple[Any, Place]:
    """Text of an environment variable: a TOML value, or names with commas between them.

    What is not TOML stays the text that it was, and is refused for its type.
    """
    parsed = replace(place, is_text=False)
    if get_origin(hint) is Literal:
        return text, parsed
    if get_origin(hint) is tuple and get_args(hint)[0] is str and not text.startswith("["):
        return [name.strip() for name in text.split(",")], parsed
    try:
        return tomllib.loads(f"value = {text}")["value"], parsed
    except tomllib.TOMLDecodeError:
        return text, parsed
