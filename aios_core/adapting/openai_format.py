"""OpenAI's chat dictionaries, which every framework speaks: to the kernel and back.

Pure functions over plain data. Promises: what the kernel cannot carry (an image,
a file) is refused by name and never dropped; what is only an echo of something
else (a `tool_use` block beside `tool_calls`, a model's thoughts) is left out;
usage appears once in a stream.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aios_core.errors import InvalidRequest
from aios_core.messages import (
    Completion,
    Delta,
    Message,
    ResponseFormat,
    Role,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

# Blocks that say again what stands elsewhere, or that no model takes back.
_ECHOES: Final = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call"}
    | {"thinking", "redacted_thinking", "reasoning", "reasoning_content"}
)
#: What frameworks call the roles, in the kernel's words.
ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
}
# What a call may say about itself, and what the kernel calls it.
_OPTIONS: Final[Mapping[str, str]] = {
    "model": "model",
    "model_name": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "seed": "seed",
    "stop": "stop",
    "parallel_tool_calls": "parallel_tool_calls",
    "timeout": "timeout_s",
    "priority": "priority",
}
# What a client says about the transport, and no model about its answer.
_OF_THE_WIRE: Final = frozenset(
    {"stream", "stream_options", "stream_usage", "strict", "n", "service_tier", "store", "user"}
    | {"metadata", "extra_headers", "extra_query"}
)


# --- what goes in --------------------------------------------------------------------------------


def read_request(said: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat completion request as the arguments of `Agent.llm.generate`.

    What only concerns the transport is left out; unknown keys become `extra`.
    Raises `InvalidRequest`, also for more than one answer (`n`).
    """
    options, rest = read_options(said)
    if said.get("n") not in (None, 1):
        raise InvalidRequest(f"n: got {said['n']!r}; allowed: 1")
    tools = [ToolSpec.from_dict(tool) for tool in rest.pop("tools", None) or ()]
    request: dict[str, Any] = {
        **options,
        "messages": read_messages(rest.pop("messages", ())),
        "tools": tools,
        "tool_choice": read_tool_choice(rest.pop("tool_choice", None), [t.name for t in tools]),
    }
    if (form := read_response_format(rest.pop("response_format", None))) is not None:
        request["response_format"] = form
    return {**request, "extra": rest}


def read_options(said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the kernel knows of a call's options, under its names, and all the rest.

    Options that are None are not said; those of the wire are dropped.
    """
    known = {_OPTIONS[key]: value for key, value in said.items() if key in _OPTIONS}
    rest = {k: v for k, v in said.items() if k not in _OPTIONS and k not in _OF_THE_WIRE}
    return {key: value for key, value in known.items() if value is not None}, rest


def read_messages(raw: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Messages. Raises `InvalidRequest`, naming the position, for what no model can be told."""
    messages = []
    for position, one in enumerate(raw):
        try:
            messages.append(_read_message(one))
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return messages


def _read_message(raw: Mapping[str, Any]) -> Message:
    role = raw.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"unknown role {role!r}; have {sorted(ROLES)}")
    return Message.from_dict(
        {**raw, "role": ROLES[cast("str", role)], "content": read_text(raw.get("content"))}
    )


def read_text(content: Any) -> str:
    """The text of a message's content: a string, or blocks of text.

    Raises `InvalidRequest` if it holds something that is not text, such as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(map(_text_of_block, content))


def _text_of_block(block: Any) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text") if isinstance(block, Mapping) else type(block).__name__
    if kind in _ECHOES:
        return ""
    if kind == "json" and "json" in block:
        return json.dumps(block["json"], ensure_ascii=False)
    if isinstance(block, Mapping) and isinstance(block.get("text"), str):
        return cast("str", block["text"])
    raise InvalidRequest(f"content of type {kind!r}; this kernel takes text only")


def read_tool_choice(choice: Any, names: Sequence[str]) -> str:
    """OpenAI's, Anthropic's and the frameworks' ways to say which tool, in the kernel's words.

    Raises `InvalidRequest` with the known ones.
    """
    match choice:
        case None | False | "auto" | {"type": "auto"}:
            return "auto"
        case True | "any" | "required" | {"type": "any"}:
            return "required"
        case "none" | {"type": "none"}:
            return "none"
        case str() as name if name in names:
            return name
        case {"function": {"name": str() as name}} | {"name": str() as name} if name in names:
            return name
        case _:
            pass
    allowed = f"'auto', 'none', 'any', 'required', a boolean or one of {list(names)}"
    raise InvalidRequest(f"tool_choice: got {choice!r}; allowed: {allowed}")


def _refuse_format(raw: Any) -> ResponseFormat:
    allowed = "a pydantic class, or OpenAI's {'type': 'json_schema', ...}"
    raise InvalidRequest(f"response_format: got {raw!r:.200}; allowed: {allowed}")


def read_response_format(
    raw: Any, otherwise: Callable[[Any], ResponseFormat] = _refuse_format
) -> ResponseFormat | None:
    """OpenAI's `response_format`, or a pydantic class; `otherwise` reads what is neither."""
    match raw:
        case None | {"type": "text"}:
            return None
        case ResponseFormat():
            return raw
        case {"type": "json_object"}:
            return ResponseFormat()
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema, **rest}}:
            return ResponseFormat(schema, str(rest.get("name") or "answer"))
        case type() if hasattr(raw, "model_json_schema"):
            return ResponseFormat(raw.model_json_schema(), raw.__name__)
        case _:
            return otherwise(raw)


# --- what comes out ------------------------------------------------------------------------------

_numbers = itertools.count(1)


def write_completion(completion: Completion) -> dict[str, Any]:
    """A whole answer, as a `chat.completion`."""
    message = completion.message.to_dict()
    return {
        "id": f"chatcmpl-aios-{next(_numbers)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": completion.model,
        "choices": [
            {
                "index": 0,
                "message": {**message, "content": message["content"] or None}
                if completion.tool_calls
                else message,
                "finish_reason": str(completion.finish_reason),
                "logprobs": None,
            }
        ],
        "usage": write_usage(completion.usage),
    }


def write_usage(usage: Usage) -> dict[str, Any]:
    """Tokens, as OpenAI counts them."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass(slots=True)
class ChunkWriter:
    """A stream, as `chat.completion.chunk`s."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-aios-{next(_numbers)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def delta(self, delta: Delta) -> dict[str, Any]:
        """One step."""
        said: dict[str, Any] = {"role": "assistant"}
        if delta.text or not delta.tool_calls:
            said["content"] = delta.text
        if delta.tool_calls:
            said["tool_calls"] = [_fragment(part) for part in delta.tool_calls]
        return self._chunk(said, None)

    def end(self, completion: Completion) -> dict[str, Any]:
        """Why it ended; comes after the last step."""
        return self._chunk({}, str(completion.finish_reason))

    def usage(self, completion: Completion) -> dict[str, Any]:
        """What it took; comes last, with no choice, as servers send it."""
        chunk = self._chunk({}, None)
        return {**chunk, "choices": [], "usage": write_usage(completion.usage)}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}],
        }


def _fragment(part: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": part.arguments}
    if part.name is not None:
        function["name"] = part.name
    out: dict[str, Any] = {"index": part.index, "function": function}
    if part.id is not None:
        out |= {"id": part.id, "type": "function"}
    return out
