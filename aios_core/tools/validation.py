"""Check arguments against a tool's JSON schema: coerce harmless mistakes, refuse all others.

A mistake is harmless if it can be read in one way only: a number or a truth value written as
text, a list or object written as JSON text, one item where a list is expected, a whole number
written as 3.0, null for an optional field, a missing field with a default. All other faults
are reported to the model: the field, the value that was given, and what is expected.

Pure, but not always quick: a schema with patterns or references can take forever, so only
`is_quick` arguments are checked on the kernel's loop, and others in a process that can be
killed (`aios_core.tools.schema_processes`). Construct an `ArgumentSchema` on a thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from aios_core.errors import InvalidArguments, InvalidRequest
from aios_core.suggestions import suggest
from aios_core.tools.strict_json import MAX_DEPTH, NotJSON, parse
from aios_core.untrusted.schema_cost import is_linear, is_quick, require_bounded, without_values

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_MAX_FAULTS: Final = 10
_MAX_REASON: Final = 500  # characters of an error about a schema
_MAX_PASSES: Final = 4  # a coerced value may contain a value that needs coercion too
_ARTICLES: Final[Mapping[str, str]] = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


_WORDS: Final[Mapping[str, str]] = {
    "enum": "one of {}",
    "const": "{}",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "a text that matches {}",
    "multipleOf": "a multiple of {}",
}


class ArgumentSchema:
    """The schema of one tool, checked once and used for every call. Any thread may use it.

    The constructor raises `InvalidRequest` for an invalid schema, and for one that refers to
    another document.
    """

    def __init__(self, tool: str, schema: Mapping[str, Any]) -> None:
        # Imported here, on a thread, because the import reads the meta-schemas from disk.
        import jsonschema  # noqa: PLC0415
        import referencing  # noqa: PLC0415

        self.num_parts = require_bounded(f"tool {tool!r}", schema)
        own: dict[str, Any] = deepcopy(dict(schema))
        kind = jsonschema.validators.validator_for(own, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(without_values(own))
        except jsonschema.SchemaError as exc:
            raise InvalidRequest(
                f"tool {tool!r}: its parameters are not a JSON schema: {exc.message[:_MAX_REASON]}"
            ) from exc
        except RecursionError:
            raise InvalidRequest(f"tool {tool!r}: its parameters are nested too deep") from None
        if foreign := [ref for ref in _references(own) if not ref.startswith("#")]:
            raise InvalidRequest(f"tool {tool!r}: its schema refers to other documents: {foreign}")
        self._tool = tool
        self._unresolvable = referencing.exceptions.Unresolvable
        # With an empty registry; without one, jsonschema fetches referenced documents.
        self._validator: Validator = kind(own, registry=referencing.Registry())
        self._is_linear = is_linear(own)
        self._schema = own

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON schema."""
        return self._schema

    def is_quick(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether checking these arguments is quick enough for the kernel's loop."""
        return self._is_linear and is_quick(self.num_parts, arguments)

    def validate(self, arguments: Mapping[str, Any], *, repairs: bool) -> dict[str, Any]:
        """Return a copy of plain arguments that fits the schema. Raises `InvalidArguments`."""
        value = deepcopy(dict(arguments))
        faults: dict[str, str] = {}
        try:
            if repairs:
                self._coerce_all(value)
            for error in self._validator.iter_errors(value):
                faults.update(_describe(error))
        except (RecursionError, self._unresolvable) as exc:
            raise InvalidArguments(self._tool, {"arguments": f"cannot be checked: {exc}"}) from exc
        if faults:
            raise InvalidArguments(self._tool, dict(list(faults.items())[:_MAX_FAULTS]))
        return value

    def _coerce_all(self, value: dict[str, Any]) -> None:
        _fill_defaults(self._schema, value)
        for _ in range(_MAX_PASSES):
            errors = list(self._validator.iter_errors(value))
            if not any([self._coerce(value, error) for error in errors]):  # noqa: C419 - coerce all
                break
        _make_whole(self._schema, value)

    def _coerce(self, root: dict[str, Any], error: ValidationError) -> bool:
        """Coerce one faulty value in place if that is harmless. Returns whether it did."""
        path = list(error.absolute_path)
        if not path or error.validator not in ("type", "anyOf", "oneOf"):
            return False
        holder: Any = root
        for step in path[:-1]:
            holder = holder[step]
        found = holder[path[-1]]
        if found is None and isinstance(holder, dict) and self._may_be_left_out(error):
            del holder[path[-1]]
            return True
        fits = self._validator.evolve(schema=error.schema)
        typed = self._validator.evolve(schema={"type": _types(error.schema)})
        candidates = [one for one in _readings(found, _types(error.schema)) if typed.is_valid(one)]
        for candidate in sorted(candidates, key=lambda one: not fits.is_valid(one))[:1]:
            holder[path[-1]] = candidate
            return True
        return False

    def _may_be_left_out(self, error: ValidationError) -> bool:
        """Return whether the field is an optional one of the top level."""
        required = self._schema.get("required", ())
        return len(error.absolute_path) == 1 and error.absolute_path[0] not in required


def _readings(value: Any, types: Sequence[str]) -> Iterator[Any]:
    """Yield the possible meanings of a value."""
    if isinstance(value, str):
        text = value.strip()
        if {"integer", "number"} & set(types):
            with suppress(NotJSON):
                yield parse(text, 400)
        if "boolean" in types and text.lower() in ("true", "false"):
            yield text.lower() == "true"
        if ({"array", "object"} & set(types)) and text[:1] in ("[", "{"):
            with suppress(NotJSON):
                yield parse(text, len(text.encode()))
    if "array" in types and not isinstance(value, list) and value is not None:
        yield [value]


def _types(schema: Any) -> list[str]:
    """Return the types that a schema allows at its top level."""
    if not isinstance(schema, Mapping):
        return []
    named = schema.get("type", ())
    found = [named] if isinstance(named, str) else list(named)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found.extend(_types(branch))
    return found


def _fill_defaults(schema: Any, value: Any, depth: int = 0) -> None:
    if not isinstance(value, dict) or not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            _fill_defaults(inner, value[name], depth + 1)
        elif isinstance(inner, Mapping) and "default" in inner:
            value[name] = deepcopy(inner["default"])


def _make_whole(schema: Any, value: Any) -> None:
    """Convert whole floats to integers where the schema asks for "integer", which 3.0 fits."""
    if not isinstance(value, dict) or not isinstance(schema, Mapping):
        return
    for name, inner in schema.get("properties", {}).items():
        found = value.get(name)
        if isinstance(found, float) and found.is_integer() and _types(inner) == ["integer"]:
            value[name] = int(found)
        _make_whole(inner, found)


def _describe(error: ValidationError) -> dict[str, str]:
    """Describe a fault as text, by field."""
    path, keyword = _json_path(error.absolute_path), str(error.validator)
    schema: Any = error.schema if isinstance(error.schema, Mapping) else {}
    wanted: Any = error.validator_value
    instance: Any = error.instance
    if keyword == "required":
        missing = [name for name in wanted if name not in instance]
        known = schema.get("properties", {})
        return {
            _joined(path, name): f"is missing; expected {_expected(known.get(name, {}))}"
            for name in missing
        }
    if keyword == "additionalProperties" and wanted is False and "patternProperties" not in schema:
        known = sorted(schema.get("properties", {}))
        extra = [name for name in instance if name not in known]
        return {_joined(path, name): _unknown(name, known) for name in extra}
    if keyword in ("type", "anyOf", "oneOf"):
        expected = _expected(schema)
    elif keyword in _WORDS:
        shown = _shown(wanted) if isinstance(wanted, list | str) else str(wanted)
        expected = _WORDS[keyword].format(shown)
    else:
        expected = f"a value that satisfies {keyword} {_shown(wanted)}"
    return {path or "arguments": f"got {_shown(instance)}, expected {expected}"}


def _expected(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "no such field"
    if "enum" in schema:
        return f"one of {_shown(schema['enum'])}"
    words = [_ARTICLES.get(one, one) for one in dict.fromkeys(_types(schema))]
    types = " or ".join(words) or "a value"
    return f"{types} ({schema['description']})" if schema.get("description") else types


def _unknown(name: str, known: Sequence[str]) -> str:
    hint = f"{phrase} " if (phrase := suggest(name, known)) else ""
    return f"is unknown; {hint}allowed: {', '.join(known) or 'no arguments'}"


def _shown(value: Any, limit: int = 120) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _json_path(steps: Iterable[Any]) -> str:
    path = ""
    for step in steps:
        path = f"{path}[{step}]" if isinstance(step, int) else _joined(path, step)
    return path


def _joined(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _references(schema: Any) -> Iterator[str]:
    """Yield all ``$ref`` and ``$dynamicRef`` of a schema, at any depth."""
    stack = [schema]
    while stack:
        one = stack.pop()
        if isinstance(one, Mapping):
            for key, value in one.items():
                if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                    yield value
                else:
                    stack.append(value)
        elif isinstance(one, list):
            stack.extend(one)
