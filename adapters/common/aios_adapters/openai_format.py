"""Translate OpenAI's chat format, which every framework can write, to the kernel and back.

Pure functions over plain data. Promises: everything in a message, a tool or an
option is carried, under the kernel's name if it has one, else unchanged; a part that only
repeats another (a `tool_use` block next to `tool_calls`) is left out; usage appears once in
a stream.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aios_adapters.request_options import split_request_options
from aios_core.errors import InvalidRequest
from aios_core.messages import (
    Choice,
    Completion,
    Delta,
    Message,
    ResponseFormat,
    Role,
    ToolCallDelta,
    ToolChoice,
    ToolSpec,
    Usage,
    require_items,
)
from aios_core.redaction import shown_repr
from aios_core.reserved_options import ARGUMENT_OF
from aios_core.untrusted.arguments import reads_arguments

# Blocks that repeat the message's `tool_calls`.
_CALL_ECHOES: Final = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call"}
)
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
_ECHOES: Final = _CALL_ECHOES | _THOUGHTS
#: The kernel's role for each name that frameworks use.
ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
}

# Arguments of a call that are not plain values.
_STRUCTURED: Final = frozenset({"messages", "tools", "tool_choice", "response_format"})


# --- requests ------------------------------------------------------------------------------------


@reads_arguments
def read_request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the body of a chat completion request as the arguments of `Agent.llm.generate`.

    Options of the connection are left out; unknown keys become `extra`.

    Raises:
        InvalidRequest: a value is malformed; the message names it.
    """
    if not isinstance(raw, Mapping):
        raise InvalidRequest(
            f"request: got {shown_repr(raw)}; allowed: a mapping in OpenAI's format"
        )
    split = split_request_options(raw)
    options, rest = split.arguments, split.extra
    tools = [ToolSpec.from_dict(tool) for tool in require_items("tools", options.pop("tools", ()))]
    request: dict[str, Any] = {
        "model": None,
        **options,
        "messages": read_messages(options.pop("messages", ())),
        "tools": tools,
        "tool_choice": read_tool_choice(
            options.pop("tool_choice", None), [tool.name for tool in tools]
        ),
    }
    if (form := read_response_format(options.pop("response_format", None))) is not None:
        request["response_format"] = form
    return {**request, "extra": rest}


def read_options(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a call's options into the kernel's arguments and the rest.

    Options that are None count as unset; options of the connection are dropped. Messages, tools
    and formats have their own readers and stay unchanged in the rest.
    """
    structured = {
        key: value
        for key, value in raw.items()
        if ARGUMENT_OF.get(key) in _STRUCTURED and value is not None
    }
    options = split_request_options({k: v for k, v in raw.items() if k not in structured})
    for name in _STRUCTURED & options.arguments.keys():  # inside `extra_body` and the like
        structured.setdefault(name, options.arguments.pop(name))
    return options.arguments, options.extra | structured


def read_messages(raw: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Read messages in OpenAI's format.

    Raises:
        InvalidRequest: a message is malformed; the error names its position, from 0.
    """
    messages = []
    for position, one in enumerate(require_items("messages", raw)):
        try:
            messages.append(_read_message(one))
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return messages


def _read_message(raw: Mapping[str, Any]) -> Message:
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"got {shown_repr(raw)}; allowed: a mapping in OpenAI's format")
    role = raw.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest(f"role: got {shown_repr(role)}; allowed: {sorted(ROLES)}")
    message: dict[str, Any] = {**raw, "role": ROLES[role]}
    if isinstance(raw.get("content"), list | tuple):
        message["content"], thoughts = read_parts(raw["content"])
        if thoughts and "thinking_blocks" not in message:
            message["thinking_blocks"] = thoughts
    return Message.from_dict(message)


def read_parts(content: Iterable[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read content blocks. Returns the parts in OpenAI's format, and the model's thoughts.

    Blocks that repeat a tool call are left out, since the message has it in `tool_calls`.
    """
    parts: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []
    for block in content:
        kind = block.get("type", "text") if isinstance(block, Mapping) else "text"
        if not isinstance(kind, str):
            raise InvalidRequest(f"a part's type: got {shown_repr(kind)}; allowed: a text")
        if kind in _THOUGHTS:
            thoughts.append(dict(block))
        elif kind not in _CALL_ECHOES:
            parts.append(_read_part(block))
    return parts, thoughts


def _read_part(block: Any) -> dict[str, Any]:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, Mapping):
        raise InvalidRequest(f"content block of type {type(block).__name__!r}: {shown_repr(block)}")
    if block.get("type") == "json" and "json" in block:
        return {"type": "text", "text": json.dumps(block["json"], ensure_ascii=False)}
    return dict(block)


def read_text(content: Any) -> str:
    """Return the text of a message's content: a string, or blocks of text.

    Raises:
        InvalidRequest: the content has a part that is not text, such as an image.
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
    raise InvalidRequest(f"content of type {shown_repr(kind)}; allowed: text")


def read_tool_choice(  # noqa: PLR0911 - one row for each notation
    choice: Any, names: Sequence[str]
) -> ToolChoice | None:
    """Read a tool choice in OpenAI's, Anthropic's or a framework's notation.

    None (no choice) stays None. A mapping of another type passes unchanged: a backend may
    support it.

    Raises:
        InvalidRequest: the choice is unknown; the message lists the allowed ones.
    """
    match choice:
        case None:
            return None
        case False | "auto" | {"type": "auto"}:
            return "auto"
        case True | "any" | "required" | {"type": "any" | "required"}:
            return "required"
        case "none" | {"type": "none"}:
            return "none"
        case str() as name if name in names:
            return name
        case {"function": {"name": str() as name}} | {"name": str() as name} if name in names:
            return name
        case {"type": str() as kind} if kind not in ("function", "tool") and "name" not in choice:
            return dict(choice)
        case _:
            pass
    allowed = f"'auto', 'none', 'any', 'required', a boolean or one of {list(names)}"
    raise InvalidRequest(f"tool_choice: got {shown_repr(choice)}; allowed: {allowed}")


def _refuse_format(raw: Any) -> ResponseFormat:
    allowed = "a pydantic class, or OpenAI's {'type': 'json_schema', ...}"
    raise InvalidRequest(f"response_format: got {shown_repr(raw)}; allowed: {allowed}")


def read_response_format(
    raw: Any, otherwise: Callable[[Any], ResponseFormat] = _refuse_format
) -> ResponseFormat | None:
    """Read OpenAI's `response_format`, or a pydantic class; pass anything else to `otherwise`."""
    match raw:
        case None | ResponseFormat():
            return raw
        case type() if hasattr(raw, "model_json_schema"):
            return ResponseFormat(raw.model_json_schema(), raw.__name__)
        case _ if ResponseFormat.is_openai(raw):
            return ResponseFormat.from_dict(raw)
        case _:
            return otherwise(raw)


# --- answers -------------------------------------------------------------------------------------

_numbers = itertools.count(1)


def write_completion(completion: Completion) -> dict[str, Any]:
    """Return a whole answer as a `chat.completion`, with nothing left out."""
    out: dict[str, Any] = {
        **_plain(completion.extra),
        "id": completion.id or f"chatcmpl-aios-{next(_numbers)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": completion.model,
        "choices": [_choice(i, choice) for i, choice in enumerate(completion.all_choices)],
        "usage": write_usage(completion.usage),
    }
    if completion.fingerprint is not None:
        out["system_fingerprint"] = completion.fingerprint
    return out


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message = choice.message.to_dict()
    if choice.message.tool_calls and not message["content"]:
        message["content"] = None
    return {
        **_plain(choice.extra),
        "index": index,
        "message": message,
        **_end(choice),
        "logprobs": choice.logprobs,
    }


def _end(choice: Choice) -> dict[str, Any]:
    """Return the finish reason of an answer, and the backend's own if it differs."""
    ours, theirs = str(choice.finish_reason), choice.backend_finish_reason
    if theirs is None or theirs == ours:
        return {"finish_reason": ours}
    return {"finish_reason": ours, "native_finish_reason": theirs}


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if value is not None}


def write_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts in OpenAI's format."""
    read = {"cached_tokens": usage.cached_tokens}
    if usage.audio_input_tokens:
        read["audio_tokens"] = usage.audio_input_tokens
    if usage.cache_write_tokens:
        read["cache_write_tokens"] = usage.cache_write_tokens
    out: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": read,
    }
    if usage.reasoning_tokens or usage.audio_output_tokens:
        out["completion_tokens_details"] = {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.audio_output_tokens,
        }
    return out


@dataclass(slots=True)
class ChunkWriter:
    """Writes a stream as `chat.completion.chunk`s."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-aios-{next(_numbers)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def delta(self, delta: Delta) -> dict[str, Any]:
        """Return the chunk of one delta."""
        out: dict[str, Any] = {"role": "assistant", **delta.extra}
        if delta.text or not _has_more_than_text(delta):
            out["content"] = delta.text
        if delta.refusal:
            out["refusal"] = delta.refusal
        if delta.reasoning:
            out[delta.reasoning_key or "reasoning_content"] = delta.reasoning
        if delta.thinking:
            out[delta.thinking_key or "thinking_blocks"] = [dict(one) for one in delta.thinking]
        if delta.tool_calls:
            out["tool_calls"] = [_fragment(part) for part in delta.tool_calls]
        return self._chunk(
            {"index": delta.choice, "delta": out, "finish_reason": None},
            logprobs=delta.logprobs,
        )

    def end(self, completion: Completion) -> dict[str, Any]:
        """Return the chunk with the finish reasons; it follows the last delta."""
        choices = [
            {**_plain(choice.extra), "index": index, "delta": {}, **_end(choice)}
            for index, choice in enumerate(completion.all_choices)
        ]
        chunk = self._chunk(*choices)
        if completion.fingerprint is not None:
            chunk["system_fingerprint"] = completion.fingerprint
        return {**_plain(completion.extra), **chunk}

    def usage(self, completion: Completion) -> dict[str, Any]:
        """Return the chunk with the usage; it comes last and has no choice, as servers send it."""
        return {**self._chunk(), "usage": write_usage(completion.usage)}

    def _chunk(
        self, *choices: dict[str, Any], logprobs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{**choice, "logprobs": logprobs} for choice in choices],
        }


def _has_more_than_text(delta: Delta) -> bool:
    return bool(
        delta.tool_calls or delta.refusal or delta.reasoning or delta.thinking or delta.extra
    )


def _fragment(part: ToolCallDelta) -> dict[str, Any]:
    content = "input" if part.kind == "custom" else "arguments"
    body: dict[str, Any] = {content: part.arguments}
    if part.name is not None:
        body["name"] = part.name
    out: dict[str, Any] = {**part.extra, "index": part.index, part.kind: body}
    if part.id is not None:
        out |= {"id": part.id, "type": part.kind}
    return out
