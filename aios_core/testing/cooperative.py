"""For tests of agents: a script for `ScriptedCore` that does what it is asked to.

    ScriptedCore(cooperative_script)

It calls the tool that it must call, or that is mentioned, or the first one, with
arguments made from the prompt by the tool's schema; answers with JSON where a
format is asked for; relays a tool's result; and echoes anything else. The same
request always gets the same answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aios_core.messages import Message, ResponseFormat, ToolCall, ToolChoice, ToolSpec

Schema = Mapping[str, Any]


class ScriptInput(Protocol):
    """The part of a request that a script reads."""

    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def tools(self) -> Sequence[ToolSpec]: ...
    @property
    def tool_choice(self) -> ToolChoice | None: ...
    @property
    def response_format(self) -> ResponseFormat | None: ...


def cooperative_script(request: ScriptInput) -> Message:
    """Answer a request as it asks: call an offered tool, write JSON, or echo the text."""
    last = request.messages[-1] if request.messages else Message("user")
    if request.response_format is not None and request.response_format.is_constraint:
        schema = request.response_format.schema
        value = fill(schema, last.content) if schema else _keys_named(last.content)
        return Message("assistant", json.dumps(value, ensure_ascii=False))
    choice = "auto" if request.tool_choice is None else request.tool_choice
    must_call = choice not in ("auto", "none")
    if must_call or (request.tools and choice == "auto" and last.role == "user"):
        return Message("assistant", tool_calls=(_call(request, last.content),))
    if last.role == "tool":
        return Message("assistant", f"The tool said: {last.content}")  # prose: ok
    return Message("assistant", f"You said: {last.content}")  # prose: ok


def fill(schema: Schema, prompt: str) -> Any:
    """A value of a JSON schema, made of the numbers and quoted texts in a prompt."""
    return _Filler(prompt, schema.get("$defs") or schema.get("definitions") or {}).value(schema)


def _call(request: ScriptInput, prompt: str) -> ToolCall:
    tool = _chosen(request, prompt)
    arguments = json.dumps(fill(tool.parameters, prompt), ensure_ascii=False)
    return ToolCall(f"call_{len(request.messages)}", tool.name, arguments)


def _chosen(request: ScriptInput, prompt: str) -> ToolSpec:
    for tool in request.tools:
        if tool.name == request.tool_choice:
            return tool
    return next((tool for tool in request.tools if tool.name in prompt), request.tools[0])


def _keys_named(prompt: str) -> dict[str, str]:
    return {key: f"some {key}" for key in re.findall(r"'(\w+)'", prompt)}


class _Filler:
    """Takes numbers and texts from a prompt, in order, as a schema asks for them."""

    def __init__(self, prompt: str, definitions: Schema) -> None:
        self._prompt = prompt
        self._definitions = definitions
        self._numbers = re.findall(r"-?\d+", prompt)
        self._texts = re.findall(r"['\"]([^'\"]+)['\"]", prompt)

    def value(self, schema: Schema, name: str = "value") -> Any:  # noqa: PLR0911 - one a type
        schema = self._resolved(schema)
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                properties = schema.get("properties") or {}
                return {key: self.value(part, key) for key, part in properties.items()}
            case "array":
                return [self.value(schema.get("items") or {"type": "string"}, name)]
            case "integer":
                return int(self._numbers.pop(0)) if self._numbers else 1
            case "number":
                return float(self._numbers.pop(0)) if self._numbers else 1.0
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._texts.pop(0) if self._texts else f"{name} of: {self._prompt}"

    def _resolved(self, schema: Schema) -> Schema:
        """Follow a reference; of several possibilities take the first that is not null."""
        if reference := schema.get("$ref"):
            return self._resolved(self._definitions[reference.rpartition("/")[2]])
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or ()
        for option in options:
            if option.get("type") != "null":
                return self._resolved(option)
        return schema
