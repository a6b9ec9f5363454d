"""The two ways to constrain an answer of Claude to JSON.

Structured outputs (`output_config.format`) constrain sampling itself. They need a schema with
closed objects, and a model that supports them. Where that is not given, the model is made to
call a tool with the schema as its parameters, and the arguments of that call are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.messages import ResponseFormat
from aios_core.redaction import shown_repr
from aios_core.syscalls import LLMGenerate

SchemaReader = Callable[[dict[str, Any]], dict[str, Any]]

_ANY_OBJECT: Final = {"type": "object"}
_KINDS: Final = ("json_schema", "json_object", "text")


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of one answer: at most one of the two is set."""

    schema: Mapping[str, Any] | None = None  # for structured outputs
    tool: Mapping[str, Any] | None = None  # the tool with arguments that are the answer

    @property
    def tool_name(self) -> str | None:
        """The name of that tool."""
        return None if self.tool is None else str(self.tool["name"])


FREE: Final = AnswerForm()


def form_of(
    request: LLMGenerate, *, has_structured_outputs: bool, close: SchemaReader
) -> AnswerForm:
    """Choose the form of an answer.

    Args:
        request: the call.
        has_structured_outputs: whether the model supports them.
        close: turns a schema into one that structured outputs take.

    Raises:
        InvalidRequest: the response format is of another kind, as a grammar.
    """
    wanted = request.response_format
    if wanted is None or not wanted.is_constraint:
        return FREE
    if wanted.kind not in _KINDS:
        raise InvalidRequest(f"response_format: got {shown_repr(wanted.kind)}; allowed: {_KINDS}")
    schema = wanted.schema
    if schema and has_structured_outputs and not _has_open_object(schema):
        try:
            return AnswerForm(schema=close(dict(schema)))
        except (ValueError, TypeError, RecursionError):
            pass  # structured outputs have no form for it
    return AnswerForm(tool=_answer_tool(wanted, request))


def _answer_tool(wanted: ResponseFormat, request: LLMGenerate) -> dict[str, Any]:
    taken = {tool.name for tool in request.tools}
    name = wanted.name
    while name in taken:
        name += "_"
    schema = dict(wanted.schema or _ANY_OBJECT)
    return {
        "name": name,
        "description": wanted.description or "Give the answer, in this form.",
        "input_schema": {"type": "object", **schema},
    }


def _has_open_object(schema: Any) -> bool:
    """Return whether a schema has an object with keys that it does not name."""
    if isinstance(schema, list):
        return any(map(_has_open_object, schema))
    if not isinstance(schema, Mapping):
        return False
    is_object = schema.get("type") == "object"
    is_open = schema.get("additionalProperties") not in (False, None)
    if is_object and (is_open or not schema.get("properties")):
        return True
    return any(map(_has_open_object, schema.values()))
