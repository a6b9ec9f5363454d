"""Checks the fields of a request against their annotations, when it is built.

The one place where wrong types are refused: other checks of a request (ranges, forms,
what is converted) comes after and may rely on the types. Looked at are texts, numbers and
booleans, also where None is allowed; fields of other types, which a class may convert, it checks
itself.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, Final, Union, get_args, get_origin

from aios_core.errors import InvalidRequest, KernelError
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import (
    MAX_INTEGER,
    exact_number,
    exact_text,
    is_a,
    require_number,
    require_unicode,
)
from aios_core.untrusted.third_party import describe, detach

_WORDS: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


class CheckedFields:
    """For dataclasses: the fields are checked before the class's own `__post_init__`."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = cls.__dict__.get("__post_init__")
        if own is not None and not getattr(own, "checks_fields", False):
            cls.__post_init__ = _checked(own)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        """Check the fields against their annotations; subclasses check more, after that."""
        require_fields(self)


def require_fields(request: object) -> None:
    """Raise `InvalidRequest` unless each field is of its type. Texts become exact ones."""
    built: Any = type(request)
    for name, kind, may_be_none in _checked_fields(built):
        value = getattr(request, name)
        if value is None and may_be_none:
            continue
        if type(value) is not kind or kind in (str, int, float):
            _require(request, name, kind, value, may_be_none=may_be_none)


def _checked(own: Callable[[Any], None]) -> Callable[[Any], None]:
    """Build a `__post_init__` that checks the fields first, in subclasses too."""

    def post_init(self: Any) -> None:
        if type(self).__post_init__ is post_init:  # and not called by a subclass's own
            require_fields(self)
        _run_contained(own, self)

    return checks_itself(post_init)


def checks_itself(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    """Mark a `__post_init__` that has the fields checked where that is needed; see `check_all`."""
    post_init.checks_fields = True  # type: ignore[attr-defined]
    return post_init


def check_all(request: Any, own: Callable[[Any], None]) -> None:
    """Check the fields of a request, then what its class checks."""
    require_fields(request)
    _run_contained(own, request)


def _run_contained(own: Callable[[Any], None], request: Any) -> None:
    """Run a check. What an argument's own methods raise becomes `InvalidRequest`."""
    try:
        own(request)
    except KernelError:
        raise
    except Exception as exc:  # noqa: BLE001 - of an argument's own methods
        raise InvalidRequest(
            f"{type(request).__name__}: reading an argument raised {describe(exc)}"
        ) from detach(exc)


def _require(request: object, name: str, kind: type, value: object, *, may_be_none: bool) -> None:
    if not _is_a(value, kind):
        none = ", or None" if may_be_none else ""
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: {_WORDS[kind]}{none}")
    exact = _exact(value)
    if kind is str:
        require_unicode(name, exact)
    elif kind is int and abs(exact) > MAX_INTEGER:
        raise InvalidRequest(f"{name}: got a number beyond 64 bits; allowed: a whole number")
    elif kind is float:
        require_number(name, exact)
    if exact is not value:
        object.__setattr__(request, name, exact)


def _exact(value: Any) -> Any:
    """A text or number without the methods of a foreign class."""
    if isinstance(value, str):
        return exact_text(value)
    return exact_number(value) if isinstance(value, int | float) else value


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return is_a(value, int | float) and not is_a(value, bool)
    return is_a(value, kind) and not (kind is int and is_a(value, bool))


@cache
def _checked_fields(kind: Any) -> tuple[tuple[str, type, bool], ...]:
    """Of each field that is looked at: its name, its type, and whether it may be None."""
    found = []
    for item in fields(kind):
        hint = _hint(kind, item.name) if item.init else None
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        inner = [get_origin(part) or part for part in parts if part is not type(None)]
        if len(inner) == 1 and inner[0] in _WORDS:
            found.append((item.name, inner[0], len(parts) > 1))
    return tuple(found)


def _hint(kind: type, name: str) -> Any:
    """The annotation of a field; None if it cannot be read here (a name for type checkers)."""
    for one in kind.__mro__:
        if (hint := inspect.get_annotations(one).get(name)) is not None:
            break
    else:
        return None
    if not isinstance(hint, str):
        return hint
    names = {**vars(typing), **vars(sys.modules[one.__module__])}
    try:
        return eval(hint, names)  # noqa: S307 - our own annotation
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None
