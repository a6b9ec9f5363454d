"""Translate between AutoGen and the kernel: messages, tools, answers.

Pure functions over plain data. Promises: images are sent as parts of a message, and a core
that does not support them refuses them by name; text next to tool calls is AutoGen's
`thought` in both directions, and so is a model's reasoning where there is no such text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    ChatCompletionTokenLogprob,
    CreateResult,
    FinishReasons,
    FunctionExecutionResultMessage,
    LLMMessage,
    RequestUsage,
    SystemMessage,
    TopLogprob,
    UserMessage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from aios_adapters import read_response_format, read_tool_choice
from aios_core import (
    Completion,
    Delta,
    FinishReason,
    Message,
    ResponseFormat,
    ToolCall,
    ToolSpec,
    Usage,
)
from aios_core.errors import InvalidRequest

_FINISH_REASONS: Final[Mapping[FinishReason, FinishReasons]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "function_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
}

_MESSAGES: Final = "SystemMessage, UserMessage, AssistantMessage, FunctionExecutionResultMessage"

# --- requests ------------------------------------------------------------------------------------


def to_messages(messages: Sequence[LLMMessage], *, with_names: bool = True) -> list[Message]:
    """Translate an AutoGen conversation to the kernel's messages.

    Args:
        messages: the messages of a model context.
        with_names: whether a user's message has the name of its source.

    Raises:
        InvalidRequest: a message or content has an unknown type; the error names its position.
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
            yield _user_message(message.content, name)
        case AssistantMessage() if isinstance(message.content, str):
            yield Message("assistant", message.content, reasoning=message.thought or "")
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
            raise InvalidRequest(f"got a {type(message).__name__}; allowed: {_MESSAGES}")


def _user_message(content: str | Sequence[str | Image], name: str | None) -> Message:
    """Translate a user's message, which may have pictures between texts."""
    if isinstance(content, str):
        return Message("user", content, name=name)
    return Message("user", name=name, parts=tuple(map(_part, content)))


def _part(content: Any) -> dict[str, Any]:
    match content:
        case str():
            return {"type": "text", "text": content}
        case Image():
            return content.to_openai_format()
        case _:
            kind = type(content).__name__
            raise InvalidRequest(f"content of type {kind!r}; allowed: str and `Image`")


def to_tools(tools: Sequence[Tool | ToolSchema]) -> list[ToolSpec]:
    """Translate tools and schemas of tools."""
    schemas = [tool if isinstance(tool, dict) else tool.schema for tool in tools]
    return [ToolSpec.from_dict(schema) for schema in schemas]


def to_tool_choice(choice: Any, names: Sequence[str]) -> Any:
    """Translate a tool choice: a word, or the tool that must be called.

    Raises:
        InvalidRequest: the choice is unknown.
    """
    if not isinstance(choice, str) and isinstance(choice, Tool):  # a protocol: slow to check
        return read_tool_choice({"name": choice.schema["name"]}, names)
    return read_tool_choice(choice, names)


def to_response_format(json_output: Any, raw: Any = None) -> ResponseFormat | None:
    """Return the format that `json_output` requests, else that of a raw `response_format`.

    Raises:
        InvalidRequest: `json_output` is neither a boolean nor a pydantic class.
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


# --- answers -------------------------------------------------------------------------------------


def to_result(completion: Completion) -> CreateResult:
    """Translate a whole answer. `thought` is the text next to tool calls, else the reasoning."""
    calls = [
        FunctionCall(id=call.id, name=call.name, arguments=call.arguments or "{}")
        for call in completion.tool_calls
    ]
    text = completion.text or completion.refusal or ""
    return CreateResult(
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        content=calls or text,
        usage=to_usage(completion.usage),
        cached=False,
        logprobs=_logprobs(completion.logprobs),
        thought=(completion.text if calls else "") or completion.reasoning or None,
    )


def _logprobs(raw: Mapping[str, Any] | None) -> list[ChatCompletionTokenLogprob] | None:
    """Translate log probabilities in OpenAI's format."""
    if not raw or not raw.get("content"):
        return None
    return [
        ChatCompletionTokenLogprob(
            token=one["token"],
            logprob=one["logprob"],
            top_logprobs=[
                TopLogprob(logprob=top["logprob"], bytes=top.get("bytes"))
                for top in one.get("top_logprobs") or ()
            ],
            bytes=one.get("bytes"),
        )
        for one in raw["content"]
    ]


class ThoughtMarks:
    """Marks a stream's reasoning with `<think>`, as AutoGen's own clients do."""

    def __init__(self) -> None:
        self._is_thinking = False

    def texts(self, delta: Delta) -> Iterator[str]:
        """Yield the texts that a delta adds to the stream."""
        if delta.reasoning:
            yield delta.reasoning if self._is_thinking else f"<think>{delta.reasoning}"
            self._is_thinking = True
        if (text := delta.text or delta.refusal) or delta.tool_calls:
            if self._is_thinking:
                yield "</think>"
            self._is_thinking = False
            if text:
                yield text


def to_usage(usage: Usage) -> RequestUsage:
    """Translate token counts."""
    return RequestUsage(usage.input_tokens, usage.output_tokens)
