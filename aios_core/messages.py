"""What agents and models say to each other: messages, tool calls, answers, usage.

The shapes follow OpenAI's chat format, the one that every framework and server
speaks, as frozen dataclasses that are checked when they are built. This module
knows no model and no framework.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from numbers import Integral, Real
from typing import Any, Final, Literal, TypeVar

from aios_core.errors import InvalidRequest

T = TypeVar("T")

Role = Literal["system", "user", "assistant", "tool"]
ROLES: Final = ("system", "user", "assistant", "tool")

ToolChoice = str  # "auto", "none", "required", or the name of one tool


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One request of a model to run a tool."""

    id: str
    name: str
    arguments: str  # JSON text, exactly as the model wrote it

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.id, self.name, self.arguments)):
            raise InvalidRequest(f"id, name and arguments of a tool call are texts, got {self!r}")

    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments as a dictionary. Raises `InvalidRequest` if they are not a JSON object."""
        try:
            value = json.loads(self.arguments or "{}")
        except ValueError as exc:
            raise InvalidRequest(f"arguments of {self.name!r} are not JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise InvalidRequest(f"arguments of {self.name!r} are not a JSON object: {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()  # assistant only
    tool_call_id: str | None = None  # tool only: the call that this answers
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequest(f"unknown role {self.role!r}; have {list(ROLES)}")
        if not isinstance(self.content, str):
            raise InvalidRequest(f"content must be text, got {type(self.content).__name__}")
        if self.tool_calls and self.role != "assistant":
            raise InvalidRequest(f"a {self.role!r} message cannot call tools")
        for key in ("tool_call_id", "name"):
            if not isinstance(value := getattr(self, key), str | None):
                raise InvalidRequest(f"{key} must be text, got {value!r:.200}")

    def to_dict(self) -> dict[str, Any]:
        """The message in OpenAI's chat format."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            out["name"] = self.name
        return out

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Message:
        """Read a message in OpenAI's format. Text parts are joined; others are refused."""
        if not isinstance(raw, Mapping) or "role" not in raw:
            raise InvalidRequest(f"a message needs a 'role' and a 'content', got {raw!r:.200}")
        return cls(
            role=raw["role"],
            content=_text_of(raw.get("content")),
            tool_calls=tuple(
                map(_tool_call, require_items("tool_calls", raw.get("tool_calls") or ()))
            ),
            tool_call_id=raw.get("tool_call_id"),
            name=raw.get("name"),
        )


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is offered to a model."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})  # JSON Schema

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidRequest(f"a tool needs a name, got {self.name!r}")
        if not isinstance(self.description, str):
            raise InvalidRequest(f"tool {self.name!r}: description must be text")
        kind = self.parameters.get("type", "object") if isinstance(self.parameters, Mapping) else 0
        if kind != "object":
            raise InvalidRequest(
                f"tool {self.name!r}: parameters must be a JSON Schema of type 'object', "
                f"got {self.parameters!r:.200}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The tool in OpenAI's format."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": {}, **self.parameters},
        }
        return {"type": "function", "function": function}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ToolSpec:
        """Read a tool in OpenAI's format, with or without its ``function`` envelope."""
        if not isinstance(raw, Mapping):
            raise InvalidRequest(f"a tool is a mapping in OpenAI's format, got {raw!r:.200}")
        function = raw.get("function", raw)
        if not isinstance(function, Mapping) or "name" not in function:
            raise InvalidRequest(f"a tool needs a name, got {raw!r:.200}")
        return cls(
            name=function["name"],
            description=function.get("description") or "",
            parameters=function.get("parameters") or {"type": "object", "properties": {}},
        )


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"  # it was done, or met a stop string
    LENGTH = "length"  # it reached its token limit
    TOOL_CALLS = "tool_calls"  # it waits for the results of tools


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one call, or one agent, took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # those of the input whose KV was at hand

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A fragment of a tool call; fragments of one call share an index.

    The first fragment of a call carries its id and name, the later ones only
    more of the arguments' text.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a stream adds: text, fragments of tool calls, or both."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to an LLM call."""

    message: Message
    finish_reason: FinishReason
    usage: Usage
    model: str

    @property
    def text(self) -> str:
        return self.message.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, and when to stop."""

    max_tokens: int | None = None  # None: as many as the core's default and the window allow
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None  # None: the core chooses one and keeps it for the call
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(_is_count(self.max_tokens), "max_tokens", self, ">= 1")
        _require(_is_within(self.temperature, 0.0, 10.0), "temperature", self, "0 to 10")
        _require(
            _is_within(self.top_p, 0.0, 1.0) and self.top_p > 0, "top_p", self, "above 0, at most 1"
        )
        _require(_is_count(self.top_k), "top_k", self, ">= 1")
        _require(isinstance(self.seed, Integral | None), "seed", self, "a whole number")
        _require(all(isinstance(s, str) and s for s in self.stop), "stop", self, "non-empty texts")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """Constrain the answer to JSON: to a schema, or to any object if `schema` is None."""

    schema: Mapping[str, Any] | None = None
    name: str = "answer"

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping | None):
            raise InvalidRequest(f"response_format must be a JSON schema, got {self.schema!r:.200}")


def parse_messages(
    messages: str | Message | Iterable[Message | Mapping[str, Any]],
) -> tuple[Message, ...]:
    """Accept what callers write: a text (one user turn), messages, or OpenAI dictionaries.

    Raises:
        InvalidRequest: nothing to say, or a message is malformed; names its position.
    """
    if isinstance(messages, str):
        messages = (Message("user", messages),)
    elif isinstance(messages, Message | Mapping):
        messages = (messages,)
    parsed = []
    for position, raw in enumerate(require_items("messages", messages)):
        try:
            parsed.append(raw if isinstance(raw, Message) else Message.from_dict(raw))
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    if not any(m.content.strip() or m.tool_calls for m in parsed):
        raise InvalidRequest("the prompt is empty; give at least one message with content")
    return tuple(parsed)


def parse_tools(tools: Sequence[ToolSpec | Mapping[str, Any]]) -> tuple[ToolSpec, ...]:
    """Accept tools as `ToolSpec` or in OpenAI's format. Two may not share a name."""
    tools = require_items("tools", tools)
    parsed = tuple(t if isinstance(t, ToolSpec) else ToolSpec.from_dict(t) for t in tools)
    names = [tool.name for tool in parsed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"tools offered twice: {twice}")
    return parsed


def _require(holds: bool, name: str, sampling: Sampling, allowed: str) -> None:
    if not holds:
        raise InvalidRequest(f"{name}: got {getattr(sampling, name)!r}; allowed: {allowed}")


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, Integral) and int(value) >= 1)


def _is_within(value: object, low: float, high: float) -> bool:
    return isinstance(value, Real) and low <= float(value) <= high


def require_items(what: str, values: Iterable[T]) -> Sequence[T]:
    """The values, if they are a list of some kind. Raises `InvalidRequest`."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{what} must be a list, got {values!r:.200}")
    return tuple(values)


def _text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(map(_text_of_part, content))
    raise InvalidRequest(f"content must be text or a list of text parts, got {content!r:.200}")


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(f"content part of type {kind!r}; this kernel takes text parts only")


def _tool_call(raw: object) -> ToolCall:
    if isinstance(raw, ToolCall):
        return raw
    try:
        function = raw["function"]  # type: ignore[index]
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        return ToolCall(id=raw.get("id") or "", name=function["name"], arguments=arguments)  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidRequest(f"not a tool call in OpenAI's format: {raw!r:.200}") from exc


def require_number(name: str, value: object, *, at_least: float | None = None) -> None:
    """Raise `InvalidRequest` unless `value` is None or a finite number, not too small."""
    bound = "" if at_least is None else f", at least {at_least:g}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (
        is_number and isfinite(value) and (at_least is None or value >= at_least)  # type: ignore[arg-type, operator]
    ):
        raise InvalidRequest(f"{name}: got {value!r}; allowed: a number{bound}, or None")


def require_unicode(name: str, text: str) -> None:
    """Raise `InvalidRequest` for a text that has no bytes: with half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{name}: {text!r:.200} is not valid Unicode: {exc}") from exc


def require_integer(name: str, value: object) -> None:
    """Raise `InvalidRequest` unless `value` is None or a whole number."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise InvalidRequest(f"{name}: got {value!r}; allowed: a whole number, or None")
