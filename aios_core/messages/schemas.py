"""JSON Schemas in a request: the tools that are offered, and the form of the answer.

Both reach the backend byte for byte as they were written in OpenAI's format: no
key is added, dropped or reordered. What is built from plain Python values is
written in the shortest form that OpenAI's API accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import copy_mapping, exact_text, reads_arguments, require_items

#: "auto", "none", "required", the name of one tool, or another choice in OpenAI's format.
ToolChoice = str | Mapping[str, Any]

GENERAL_CHOICES: Final = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is offered to a model.

    `raw` is the tool as it was written in OpenAI's format; `to_dict` returns it
    unchanged as long as the other fields are equal to it.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})  # JSON Schema
    strict: bool | None = None  # None: unset
    raw: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @reads_arguments
    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidRequest(f"a tool needs a name, got {shown_repr(self.name)}")
        if not isinstance(self.description, str):
            raise InvalidRequest(f"tool {shown_repr(self.name)}: description must be text")
        if not isinstance(self.strict, bool | None):
            raise InvalidRequest(f"tool {shown_repr(self.name)}: strict must be true or false")
        kind = self.parameters.get("type", "object") if isinstance(self.parameters, Mapping) else 0
        if kind != "object":
            raise InvalidRequest(
                f"tool {shown_repr(self.name)}: parameters must be a JSON Schema of type 'object', "
                f"got {shown_repr(self.parameters)}"
            )

    @property
    def kind(self) -> str:
        """The tool's type in OpenAI's format: "function", or one that only a provider knows."""
        return "function" if self.raw is None else str(self.raw.get("type") or "function")

    def to_dict(self) -> dict[str, Any]:
        """Return the tool in OpenAI's format."""
        if self.raw is not None and self == ToolSpec.from_dict(self.raw):
            return dict(self.raw)
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = dict(self.parameters)
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}

    @classmethod
    @reads_arguments
    def from_dict(cls, raw: Mapping[str, Any]) -> ToolSpec:
        """Read a tool in OpenAI's format, with or without its ``function`` envelope.

        Tools of a type that only a provider knows are kept as they are; their name
        is their type if they have no other.
        """
        if not isinstance(raw, Mapping):
            raise InvalidRequest(f"a tool is a mapping in OpenAI's format, got {shown_repr(raw)}")
        kind = raw.get("type") or "function"
        function = raw.get(kind, raw) if isinstance(kind, str) else raw
        is_special = kind != "function"
        if not isinstance(function, Mapping) or not (is_special or "name" in function):
            raise InvalidRequest(f"a tool needs a name, got {shown_repr(raw)}")
        if is_special:
            name, parameters = function.get("name") or kind, None
        else:
            name, parameters = function["name"], function.get("parameters")
        is_bare = function is raw and not is_special
        return cls(
            name=name,
            description=function.get("description") or "",
            parameters={"type": "object"} if parameters is None else parameters,
            strict=function.get("strict"),
            raw=copy_mapping("a tool", _in_envelope(raw) if is_bare else raw),
        )


def _in_envelope(function: Mapping[str, Any]) -> dict[str, Any]:
    inside = {key: value for key, value in function.items() if key != "type"}
    return {"type": "function", "function": inside}


_MAX_STRICT_LEVELS: Final = 100  # far above what strict mode takes
#: Types of JSON Schema; no response format of OpenAI's is called so.
_SCHEMA_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """Constrain the answer to JSON: to a schema, or to any object if `schema` is None.

    `raw` is OpenAI's `response_format` as it was written; it is what a backend of
    that format is sent. `kind` is its type, which may be one that only a backend
    knows, such as a grammar.
    """

    schema: Mapping[str, Any] | None = None
    name: str = "answer"
    strict: bool | None = None  # None: as strict as the schema allows
    description: str | None = None
    kind: str = ""  # "json_schema", "json_object", "text" or another; found out if not given
    raw: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @reads_arguments
    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping | None):
            raise InvalidRequest(
                f"response_format must be a JSON schema, got {shown_repr(self.schema)}"
            )
        if not isinstance(self.raw, Mapping | None):
            raise InvalidRequest(f"response_format must be a mapping, got {shown_repr(self.raw)}")
        if not isinstance(self.name, str):
            raise InvalidRequest(f"response_format needs a name, got {shown_repr(self.name)}")
        if not self.kind:
            object.__setattr__(self, "kind", self._found_kind())

    def _found_kind(self) -> str:
        if self.raw is not None:
            kind = self.raw.get("type")
            return exact_text(kind) if isinstance(kind, str) else shown_repr(kind)
        return "json_object" if self.schema is None else "json_schema"

    @property
    def is_constraint(self) -> bool:
        """Whether the format constrains the answer."""
        return self.kind != "text"

    def to_dict(self) -> dict[str, Any]:
        """Return it in OpenAI's format."""
        if self.raw is not None:
            return dict(self.raw)
        if self.schema is None:
            return {"type": "json_object"}
        inside: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            inside["description"] = self.description
        inside["schema"] = dict(self.schema)
        inside["strict"] = is_strict(self.schema) if self.strict is None else self.strict
        return {"type": "json_schema", "json_schema": inside}

    @staticmethod
    def is_openai(raw: object) -> bool:
        """Return whether `raw` is OpenAI's `response_format` rather than a plain JSON schema."""
        kind = raw.get("type") if isinstance(raw, Mapping) else None
        return isinstance(kind, str) and kind not in _SCHEMA_TYPES

    @classmethod
    @reads_arguments
    def from_dict(cls, raw: Mapping[str, Any]) -> ResponseFormat:
        """Read OpenAI's `response_format` of any type. Raises `InvalidRequest`."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
            raise InvalidRequest(
                "response_format: allowed: OpenAI's {'type': 'json_schema', ...}, "
                f"{{'type': 'json_object'}} or {{'type': 'text'}}; got {shown_repr(raw)}"
            )
        kept = copy_mapping("response_format", raw)
        if raw["type"] != "json_schema":
            return cls(raw=kept)
        inside = kept.get("json_schema")
        if not isinstance(inside, dict) or not isinstance(inside.get("schema", {}), dict):
            raise InvalidRequest(
                f"response_format: json_schema needs a 'schema', got {shown_repr(raw)}"
            )
        name, description = inside.get("name"), inside.get("description")
        return cls(
            schema=inside.get("schema", {}),
            name=name if isinstance(name, str) and name else "answer",
            strict=inside["strict"] if isinstance(inside.get("strict"), bool) else None,
            description=description if isinstance(description, str) else None,
            raw=kept,
        )


@reads_arguments
def parse_tools(tools: Sequence[ToolSpec | Mapping[str, Any]]) -> tuple[ToolSpec, ...]:
    """Accept tools as `ToolSpec` or in OpenAI's format. Two may not share a name."""
    tools = require_items("tools", tools)
    parsed = tuple(t if isinstance(t, ToolSpec) else ToolSpec.from_dict(t) for t in tools)
    names = [tool.name for tool in parsed if tool.kind == "function"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"tools offered twice: {twice}")
    return parsed


def is_strict(schema: Any, levels: int = _MAX_STRICT_LEVELS) -> bool:
    """Return whether OpenAI's strict mode takes a schema: closed objects, all keys required.

    It takes no schema of more than a few levels, and none that is malformed.
    """
    if not levels:
        return False
    if isinstance(schema, list):
        return all(is_strict(one, levels - 1) for one in schema)
    if not isinstance(schema, Mapping):
        return True
    if not _is_closed(schema):
        return False
    properties = schema.get("properties")
    within = [one for key, one in schema.items() if key != "properties"]
    within += properties.values() if isinstance(properties, Mapping) else ()
    return all(is_strict(one, levels - 1) for one in within)


def _is_closed(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema, if it is an object's, takes exactly the keys that it names."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return bool(schema.get("type") != "object")
    required = schema.get("required", ())
    if schema.get("additionalProperties") is not False or not isinstance(required, list | tuple):
        return False
    return all(key in required for key in properties) and all(
        isinstance(key, str) and key in properties for key in required
    )
