"""Checks of what callers pass, shared by all requests.

Every check raises `InvalidRequest` and names the argument. What is plain JSON is
copied, so that nothing that a caller changes later reaches a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from aios_core.errors import InvalidRequest, KernelError
from aios_core.redaction import shown_repr
from aios_core.untrusted.third_party import describe, detach

T = TypeVar("T")
P = ParamSpec("P")

MAX_INTEGER: Final = (1 << 63) - 1  # what SQLite keeps
_MAX_DEPTH: Final = 200  # of nested JSON; what is deeper cannot be written by `json` either


def reads_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that only reads arguments raise `InvalidRequest` where their methods raise."""

    @wraps(function)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except KernelError:
            raise
        except Exception as exc:  # noqa: BLE001 - of an argument's own methods
            raise InvalidRequest(f"reading an argument raised {describe(exc)}") from detach(exc)

    return reading


@reads_arguments
def require_items(what: str, values: Iterable[T]) -> Sequence[T]:
    """Return the values as a tuple, if they are a list of some kind. Raises `InvalidRequest`."""
    if type(values) is tuple:  # it is read already
        return values
    if is_a(values, str | bytes | Mapping) or not is_a(values, Iterable):
        raise InvalidRequest(f"{what} must be a list, got {shown_repr(values)}")
    try:
        return tuple(values)
    except Exception as exc:
        raise InvalidRequest(f"{what} must be a list; reading it raised {describe(exc)}") from exc


def require_mapping(name: str, value: Any) -> dict[Any, Any]:
    """Return the items of a mapping. Raises `InvalidRequest` if it is none, or cannot be read."""
    if not is_a(value, Mapping):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a mapping")
    try:
        return dict(value.items())
    except Exception as exc:
        raise InvalidRequest(f"{name}: reading it raised {describe(exc)}") from exc


def require_number(name: str, value: Any, *, at_least: float | None = None) -> None:
    """Raise `InvalidRequest` unless `value` is None or a finite number, not too small."""
    bound = "" if at_least is None else f", at least {at_least:g}"
    if value is None:
        return
    number = exact_number(value) if is_a(value, int | float) else None
    is_number = number is not None and type(number) is not bool and is_finite(number)
    if not is_number or (at_least is not None and number < at_least):  # type: ignore[operator]
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a number{bound}, or None")


def is_a(value: object, kind: Any) -> bool:
    """`isinstance` for what callers pass: an object that raises when asked is of no kind."""
    try:
        return isinstance(value, kind)
    except Exception:  # noqa: BLE001 - its `__class__` is foreign code
        return False


def require_unicode(name: str, text: str) -> None:
    """Raise `InvalidRequest` for a text that has no bytes: with half of a surrogate pair."""
    if text.isascii():  # a stored flag: no scan, at any length
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{name}: {shown_repr(text)} is not valid Unicode: {exc}") from exc


def require_text(name: str, value: Any) -> str:
    """The value as an exact text. Raises `InvalidRequest` if it is none, or has no bytes."""
    if not is_a(value, str):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a text")
    text = exact_text(value)
    require_unicode(name, text)
    return text


@reads_arguments
def require_path(name: str, value: Any) -> Path:
    """The value as a path. Raises `InvalidRequest` if it is none."""
    if is_a(value, str):
        value = exact_text(value)
    if not is_a(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a path")
    require_unicode(name, str(value))
    return Path(value)


def is_unicode(text: str) -> bool:
    """Return whether a text has bytes: no half of a surrogate pair is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def exact_text(text: str) -> str:
    """Copy a text to an exact `str`, since methods of subclasses are foreign code."""
    return text if type(text) is str else str.__getitem__(text, slice(None))


def exact_number(number: float) -> int | float:
    """Copy a number to an exact `int` or `float`, since methods of subclasses are foreign code."""
    if type(number) is int or type(number) is float or type(number) is bool:
        return number
    return int.__int__(number) if isinstance(number, int) else float.__float__(number)


def is_finite(number: float) -> bool:
    """Return whether a number is finite as a float."""
    try:
        return isfinite(number)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def require_integer(name: str, value: Any) -> None:
    """Raise `InvalidRequest` unless `value` is None or a whole number."""
    if value is not None and (not is_a(value, int) or is_a(value, bool)):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a whole number, or None")
    if value is not None and abs(exact_number(value)) > MAX_INTEGER:
        raise InvalidRequest(f"{name}: got a number beyond 64 bits; allowed: a whole number")


def require_sendable(name: str, value: Any, depth: int = 0) -> None:
    """Raise `InvalidRequest` if some text inside JSON-like data is not valid Unicode.

    Objects that are not JSON are left alone: they stay in this process.
    """
    if is_a(value, str):
        require_unicode(name, value)
    elif depth > _MAX_DEPTH:
        raise InvalidRequest(f"{name}: nested deeper than {_MAX_DEPTH} levels")
    elif is_a(value, Mapping):
        for key, inner in value.items():
            require_sendable(f"{name}, a key", key, depth + 1)
            require_sendable(f"{name}.{key}", inner, depth + 1)
    elif is_a(value, list | tuple):
        for position, inner in enumerate(value):
            require_sendable(f"{name}[{position}]", inner, depth + 1)


def copy_json(name: str, value: Any, depth: int = 0) -> Any:
    """Copy JSON-like data, mappings as `dict` and sequences as `list`. Other objects are kept.

    Raises `InvalidRequest` for keys that are not texts, and for data nested too deep.
    """
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"{name}: nested deeper than {_MAX_DEPTH} levels")
    if is_a(value, Mapping):
        if wrong := [key for key in value if not is_a(key, str)]:
            raise InvalidRequest(f"{name}: keys must be texts, got {shown_repr(wrong[0])}")
        return {key: copy_json(f"{name}.{key}", inner, depth + 1) for key, inner in value.items()}
    if is_a(value, list | tuple):
        return [copy_json(f"{name}[]", inner, depth + 1) for inner in value]
    return value


def short_repr(value: Any) -> str:
    """Return the `repr` of a dataclass without the fields that have their default."""
    shown = []
    for item in fields(value):
        content = getattr(value, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if content != default:
            shown.append(f"{item.name}={content!r}")
    return f"{type(value).__name__}({', '.join(shown)})"


@reads_arguments
def copy_mapping(name: str, value: Any) -> dict[str, Any]:
    """Copy a mapping with `copy_json`. Raises `InvalidRequest` if it is none."""
    if not is_a(value, Mapping):
        raise InvalidRequest(f"{name} must be a mapping, got {shown_repr(value)}")
    return dict(copy_json(name, value))


def copy_mappings(name: str, values: Any) -> tuple[dict[str, Any], ...]:
    """Copy a list of mappings. Raises `InvalidRequest` if something in it is none."""
    return tuple(
        copy_mapping(f"{name}[{position}]", value)
        for position, value in enumerate(require_items(name, values))
    )
