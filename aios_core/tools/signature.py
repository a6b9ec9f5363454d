"""Derive a JSON schema from a function's annotations and docstring, without pydantic. Pure.

Supported: `str`, `int`, `float`, `bool`, `None`, `Any`, `list[X]`, `tuple[X, ...]`,
`dict[str, X]`, `X | Y`, `Literal`, enums, TypedDicts, dataclasses, and
`Annotated[X, "description"]` or `Annotated[X, {"minimum": 0}]` for more of JSON Schema.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr

_SCALARS: Final[Mapping[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
_LISTS: Final = (list, tuple, Sequence)
_SECTION: Final = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):\s*$")
_ENTRY: Final = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def type_hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the resolved annotations. Raises `InvalidRequest` if they use an unknown name."""
    target = function if hasattr(function, "__annotations__") else type(function).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except NameError as exc:
        raise InvalidRequest(f"annotations of {target.__qualname__}: {exc}") from exc


def parameters_of(function: Callable[..., Any], skipped: frozenset[str]) -> dict[str, Any]:
    """Return the JSON schema of a function's arguments, without those in `skipped`.

    It allows no further arguments, unless the function takes ``**anything``.
    """
    hints, documented = (
        type_hints_of(function),
        _documented_arguments(inspect.getdoc(function) or ""),
    )
    properties: dict[str, Any] = {}
    required: list[str] = []
    is_open = False
    for name, parameter in _signature(function).parameters.items():
        if name in skipped or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidRequest(f"{function.__name__}: {name!r} cannot be given by name")
        schema = schema_of(hints.get(name, Any), f"{function.__name__}: {name!r}")
        if name in documented:
            schema = {"description": documented[name], **schema}
        if parameter.default is parameter.empty:
            required.append(name)
        elif _is_plain(parameter.default):
            schema = {**schema, "default": parameter.default}
        properties[name] = schema
    schema = {"type": "object", "properties": properties, "additionalProperties": is_open}
    return {**schema, "required": required} if required else schema


def description_of(function: Callable[..., Any]) -> str:
    """Return the docstring of a function up to its first section."""
    lines: list[str] = []
    for line in (inspect.getdoc(function) or "").splitlines():
        if _SECTION.match(line):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def schema_of(hint: Any, where: str) -> dict[str, Any]:  # noqa: PLR0911 - one for each kind
    """Return the JSON schema of one annotation. Raises `InvalidRequest` if there is none."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is Annotated:  # first: with a mapping in it, it cannot be looked up
        return _annotated(inner, where)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return _union(inner, where)
    if hint in _LISTS or origin in _LISTS:
        item = next((one for one in inner if one is not Ellipsis), Any)
        return {"type": "array", "items": schema_of(item, where)}
    if hint is dict or origin in (dict, Mapping):
        return (
            {"type": "object", "additionalProperties": schema_of((*inner, Any)[1], where)}
            if (inner)
            else {"type": "object"}
        )
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if is_typeddict(hint) or (isinstance(hint, type) and is_dataclass(hint)):
        return _record(hint, where)
    raise InvalidRequest(f"{where}: annotation {hint!r} has no counterpart in JSON")


def _annotated(inner: tuple[Any, ...], where: str) -> dict[str, Any]:
    schema = schema_of(inner[0], where)
    for extra in inner[1:]:
        if isinstance(extra, str):
            schema = {**schema, "description": extra}
        elif isinstance(extra, Mapping):
            schema = {**schema, **extra}
    return schema


def _union(inner: tuple[Any, ...], where: str) -> dict[str, Any]:
    schemas = [schema_of(one, where) for one in inner]
    if all(set(schema) == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def _record(hint: type, where: str) -> dict[str, Any]:
    hints = get_type_hints(hint, include_extras=True)
    if is_dataclass(hint):
        required = [
            one.name
            for one in fields(hint)
            if one.default is MISSING and one.default_factory is MISSING
        ]
    else:
        required = sorted(getattr(hint, "__required_keys__", ()))
    return {
        "type": "object",
        "properties": {name: schema_of(one, where) for name, one in hints.items()},
        "required": required,
        "additionalProperties": False,
    }


def _documented_arguments(doc: str) -> dict[str, str]:
    """Return the description of each argument in the docstring's ``Args:`` section."""
    documented: dict[str, str] = {}
    name, is_in_section, indent = "", False, 0
    for line in doc.splitlines():
        if section := _SECTION.match(line):
            is_in_section = section[1] in ("Args", "Arguments", "Parameters")
            name = ""
            continue
        text = line.strip()
        if not is_in_section or not text:
            continue
        depth = len(line) - len(line.lstrip())
        entry = _ENTRY.match(text)
        if entry and (not name or depth <= indent):
            name, indent = entry[1], depth
            documented[name] = entry[2]
        elif name:
            documented[name] = f"{documented[name]} {text}".strip()
    return documented


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as exc:
        reason = f"{shown_repr(function)}: its parameters are unknown; give the tool `parameters`"
        raise InvalidRequest(reason) from exc
