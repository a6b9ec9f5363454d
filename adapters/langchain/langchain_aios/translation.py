"""Between LangChain's words and the kernel's: messages, tools, answers, fragments.

Pure functions over plain data; no model, no kernel, no callbacks. Promises: what
the kernel cannot carry (an image, a file) is refused by name and never dropped;
what is only an echo of something else (a `tool_use` block beside `tool_calls`,
a model's thoughts) is left out; usage appears once in a stream. What is OpenAI's
rather than LangChain's is read by `aios_core.adapting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import (
    ToolCallChunk,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from aios_core import Completion, Delta, Message, ResponseFormat, ToolCall, ToolSpec, Usage
from aios_core.adapting import ROLES, read_response_format, read_text
from aios_core.errors import InvalidRequest

_ROLES: Final = {role: name for role, name in ROLES.items() if name != "tool"}

# --- what goes in ------------------------------------------------------------------------------


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """A LangChain conversation as the kernel's messages.

    Raises:
        InvalidRequest: content other than text, or an unknown kind of message; names its position.
    """
    translated: list[Message] = []
    for position, message in enumerate(messages):
        try:
            translated += _to_messages(message)
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return translated


def _to_messages(message: BaseMessage) -> Iterator[Message]:
    match message:
        case AIMessage():
            calls = _calls_of(message)
            yield Message("assistant", read_text(message.content), tool_calls=calls)
        case ToolMessage():
            yield _result(message.tool_call_id, message.content, message.name)
        case HumanMessage():
            yield from _user_turn(message)
        case SystemMessage():
            yield Message("system", read_text(message.content), name=message.name)
        case ChatMessage() if message.role in _ROLES:
            yield Message(_ROLES[message.role], read_text(message.content), name=message.name)
        case ChatMessage():
            raise InvalidRequest(f"unknown role {message.role!r}; have {sorted(_ROLES)}")
        case _:
            raise InvalidRequest(f"a {type(message).__name__} cannot be said to a model")


def _user_turn(message: HumanMessage) -> Iterator[Message]:
    """A person's turn. Tool results in it (Anthropic's way) become turns of the tools."""
    blocks = [message.content] if isinstance(message.content, str) else message.content
    results = [b for b in blocks if isinstance(b, dict) and b.get("type") == "tool_result"]
    for block in results:
        yield _result(str(block.get("tool_use_id", "")), block.get("content", ""), None)
    rest = [block for block in blocks if block not in results]
    if rest or not results:
        yield Message("user", read_text(rest), name=message.name)


def _result(call_id: str, content: Any, name: str | None) -> Message:
    return Message("tool", read_text(content), tool_call_id=call_id, name=name)


def _calls_of(message: AIMessage) -> tuple[ToolCall, ...]:
    """The calls of an earlier answer, those with broken arguments included: results name them."""
    good = [
        ToolCall(call["id"] or "", call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    broken = [
        ToolCall(call["id"] or "", call["name"] or "", call["args"] or "")
        for call in message.invalid_tool_calls
    ]
    return (*good, *broken)


def to_tools(tools: Sequence[Any]) -> list[ToolSpec]:
    """Tools of any kind that LangChain accepts (functions, classes, `BaseTool`, schemas)."""
    return [ToolSpec.from_dict(convert_to_openai_tool(tool)) for tool in tools]


def to_response_format(raw: Any) -> ResponseFormat | None:
    """OpenAI's `response_format`, or a class or schema that the answer shall satisfy."""
    return read_response_format(raw, otherwise=_format_of_schema)


def _format_of_schema(raw: Any) -> ResponseFormat:
    try:
        function = convert_to_openai_tool(raw)["function"]
    except (TypeError, ValueError, KeyError) as exc:
        allowed = "a schema, or OpenAI's {'type': 'json_schema', ...}"
        raise InvalidRequest(f"response_format: got {raw!r:.200}; allowed: {allowed}") from exc
    return ResponseFormat(function["parameters"], function["name"])


# --- what comes out ----------------------------------------------------------------------------


def to_result(completion: Completion) -> ChatResult:
    """A whole answer."""
    message = AIMessage(
        content=completion.text,
        usage_metadata=to_usage(completion.usage),
        response_metadata=_metadata(completion),
    )
    for call in completion.tool_calls:
        _add_call(message, call)
    reason = {"finish_reason": str(completion.finish_reason)}
    return ChatResult(
        generations=[ChatGeneration(message=message, generation_info=reason)],
        llm_output={"model_name": completion.model},
    )


def _add_call(message: AIMessage, call: ToolCall) -> None:
    try:
        arguments = call.parsed_arguments()
    except InvalidRequest as exc:
        message.invalid_tool_calls.append(
            invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=str(exc))
        )
    else:
        message.tool_calls.append(tool_call(name=call.name, args=arguments, id=call.id))


def to_chunk(delta: Delta) -> ChatGenerationChunk:
    """One step of a stream."""
    fragments: list[ToolCallChunk] = [
        tool_call_chunk(name=part.name, args=part.arguments, id=part.id, index=part.index)
        for part in delta.tool_calls
    ]
    return ChatGenerationChunk(
        message=AIMessageChunk(content=delta.text, tool_call_chunks=fragments)
    )


def to_last_chunk(completion: Completion) -> ChatGenerationChunk:
    """The end of a stream: no text, but what is known of the whole."""
    message = AIMessageChunk(
        content="",
        usage_metadata=to_usage(completion.usage),
        response_metadata=_metadata(completion),
        chunk_position="last",
    )
    return ChatGenerationChunk(
        message=message, generation_info={"finish_reason": str(completion.finish_reason)}
    )


def to_usage(usage: Usage) -> UsageMetadata:
    """Tokens, as LangChain counts them."""
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
    )


def _metadata(completion: Completion) -> dict[str, Any]:
    return {
        "model_provider": "aios",
        "model_name": completion.model,
        "finish_reason": str(completion.finish_reason),
    }
