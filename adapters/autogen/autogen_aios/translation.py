"""Between AutoGen's words and the kernel's: messages, tools, answers.

Pure functions over plain data. Promises: an image is refused by name and never
dropped; text beside tool calls goes both ways as AutoGen's `thought`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from autogen_core import FunctionCall
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FinishReasons,
    FunctionExecutionResultMessage,
    LLMMessage,
    RequestUsage,
    SystemMessage,
    UserMessage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from aios_core import (
    Completion,
    FinishReason,
    Message,
    ResponseFormat,
    ToolCall,
    ToolSpec,
    Usage,
)
from aios_core.adapting import read_response_format, read_tool_choice
from aios_core.errors import InvalidRequest

_FINISH_REASONS: Final[Mapping[FinishReason, FinishReasons]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "function_calls",
}

# --- what goes in --------------------------------------------------------------------------------


def to_messages(messages: Sequence[LLMMessage], *, with_names: bool = True) -> list[Message]:
    """An AutoGen conversation as the kernel's messages.

    Args:
        messages: as a model context hands them out.
        with_names: whether a user's message says which agent it came from.

    Raises:
        InvalidRequest: an image, or an unknown kind of message; names its position.
    """
    translated: list[Message] = []
    for position, message in enumerate(messages):
        try:
            translated += _to_messages(message, with_names=with_names)
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return translated


def _to_messages(message: LLMMessage, *, with_names: bool) -> Iterator[Message]:
    match message:
        case SystemMessage():
            yield Message("system", message.content)
        case UserMessage():
            name = message.source if with_names else None
            yield Message("user", _text_of(message.content), name=name)
        case AssistantMessage() if isinstance(message.content, str):
            yield Message("assistant", message.content)
        case AssistantMessage():
            calls = tuple(
                ToolCall(call.id, call.name, call.arguments)
                for call in message.content
                if isinstance(call, FunctionCall)
            )
            yield Message("assistant", message.thought or "", tool_calls=calls)
        case FunctionExecutionResultMessage():
            for result in message.content:
                yield Message(
                    "tool", result.content, tool_call_id=result.call_id, name=result.name or None
                )
        case _:
            raise InvalidRequest(f"a {type(message).__name__} cannot be said to a model")


def _text_of(content: Any) -> str:
    """The text of a user's message: AutoGen puts pictures between texts."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, str):
            kind = type(part).__name__
            raise InvalidRequest(f"content of type {kind!r}; this kernel takes text only")
    return "\n".join(content)


def to_tools(tools: Sequence[Tool | ToolSchema]) -> list[ToolSpec]:
    """Tools and schemas of tools."""
    schemas = [tool if isinstance(tool, dict) else tool.schema for tool in tools]
    return [ToolSpec.from_dict(schema) for schema in schemas]


def to_tool_choice(choice: Any, names: Sequence[str]) -> Any:
    """AutoGen's choice: a word, or the tool that must be called. Raises `InvalidRequest`."""
    if not isinstance(choice, str) and isinstance(choice, Tool):  # a protocol: slow to ask
        return read_tool_choice({"name": choice.schema["name"]}, names)
    return read_tool_choice(choice, names)


def to_response_format(json_output: Any, raw: Any = None) -> ResponseFormat | None:
    """What `json_output` asks for, else what the raw `response_format` does.

    Raises `InvalidRequest` for anything that is neither a boolean nor a pydantic class.
    """
    match json_output:
        case None:
            return read_response_format(raw)
        case True:
            return ResponseFormat()
        case False:
            return None
        case type() if issubclass(json_output, BaseModel):
            return read_response_format(json_output)
        case _:
            allowed = "a boolean or a pydantic class"
            raise InvalidRequest(f"json_output: got {json_output!r:.200}; allowed: {allowed}")


# --- what comes out ------------------------------------------------------------------------------


def to_result(completion: Completion) -> CreateResult:
    """A whole answer. Text beside tool calls is AutoGen's `thought`."""
    calls = [
        FunctionCall(id=call.id, name=call.name, arguments=call.arguments or "{}")
        for call in completion.tool_calls
    ]
    return CreateResult(
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        content=calls or completion.text,
        usage=to_usage(completion.usage),
        cached=False,
        thought=(completion.text or None) if calls else None,
    )


def to_usage(usage: Usage) -> RequestUsage:
    """Tokens, as AutoGen counts them."""
    return RequestUsage(usage.input_tokens, usage.output_tokens)
