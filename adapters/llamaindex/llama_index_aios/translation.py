"""Between LlamaIndex's words and the kernel's: messages, tools, answers, fragments.

Pure functions over plain data. Promises: what the kernel cannot carry (an image, a
file) is refused by name and never dropped; what is only an echo (a model's
thoughts, a cache mark) is left out; usage appears once in a stream, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools.types import BaseTool

from aios_core import Completion, Delta, Message, ToolCall, ToolSpec
from aios_core.adapting import write_completion
from aios_core.errors import InvalidRequest

_ROLES: Final = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_ECHOES: Final = (ThinkingBlock, CachePoint)


# --- what goes in --------------------------------------------------------------------------------


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """A LlamaIndex conversation. Raises `InvalidRequest`, naming the position."""
    translated = []
    for position, message in enumerate(messages):
        try:
            translated.append(_to_message(message))
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return translated


def _to_message(message: ChatMessage) -> Message:
    role: Any = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"unknown role {message.role!r}; have {sorted(_ROLES)}")
    said = message.additional_kwargs
    if role == "tool":
        call_id = said.get("tool_call_id") or said.get("call_id")
        return Message(role, _text(message), tool_call_id=call_id, name=said.get("name"))
    calls = tuple(_calls(message)) if role == "assistant" else ()
    return Message(role, _text(message), tool_calls=calls, name=said.get("name"))


def _text(message: ChatMessage) -> str:
    parts = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            parts.append(block.text)
        elif not isinstance(block, (ToolCallBlock, *_ECHOES)):
            kind = type(block).__name__
            raise InvalidRequest(f"content of type {kind!r}; this kernel takes text only")
    return "".join(parts)


def _calls(message: ChatMessage) -> Iterator[ToolCall]:
    """The calls of an earlier answer: blocks, or what older code keeps beside them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        arguments = block.tool_kwargs
        text = (
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        )
        yield ToolCall(block.tool_call_id or "", block.tool_name, text)
    if not blocks:
        for call in message.additional_kwargs.get("tool_calls") or ():
            yield _foreign_call(call)


def _foreign_call(call: Any) -> ToolCall:
    """An OpenAI call, as a dictionary or as an object."""
    function = call["function"] if isinstance(call, dict) else call.function
    if isinstance(function, dict):
        return ToolCall(call["id"], function["name"], function["arguments"])
    return ToolCall(call.id, function.name, function.arguments)


def to_tools(tools: Iterable[Any]) -> list[ToolSpec]:
    """LlamaIndex's tools, or OpenAI's dictionaries."""
    return [
        ToolSpec.from_dict(tool.metadata.to_openai_tool(skip_length_check=True))
        if isinstance(tool, BaseTool)
        else ToolSpec.from_dict(tool)
        for tool in tools
    ]


# --- what comes out ------------------------------------------------------------------------------


def to_chat_response(completion: Completion) -> ChatResponse:
    """A whole answer."""
    message = _assistant(completion.text, completion.tool_calls)
    return ChatResponse(
        message=message,
        raw=write_completion(completion),
        additional_kwargs=to_usage(completion),
    )


def to_usage(completion: Completion) -> dict[str, int]:
    """Tokens, where LlamaIndex's token counters look for them."""
    usage = completion.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def to_completion_response(response: ChatResponse) -> CompletionResponse:
    """The same answer to a prompt without roles."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


class Accumulator:
    """A stream: each step holds all that was said so far, as LlamaIndex wants it."""

    def __init__(self) -> None:
        self._text = ""
        self._calls: dict[int, list[str]] = {}  # index -> id, name, arguments so far

    def step(self, delta: Delta) -> ChatResponse:
        """One delta."""
        self._text += delta.text
        for part in delta.tool_calls:
            call = self._calls.setdefault(part.index, ["", "", ""])
            call[0] += part.id or ""
            call[1] += part.name or ""
            call[2] += part.arguments
        calls = [ToolCall(*self._calls[index]) for index in sorted(self._calls)]
        return ChatResponse(message=_streamed(self._text, calls), delta=delta.text)

    def end(self, completion: Completion) -> ChatResponse:
        """The last step: the whole answer and its usage."""
        response = to_chat_response(completion)
        response.message = _streamed(completion.text, completion.tool_calls)
        response.delta = ""
        return response


def _streamed(text: str, calls: Sequence[ToolCall]) -> ChatMessage:
    """Who reads a stream for objects or a chat looks for calls beside the blocks too.

    OpenAI's LLM has them there; LlamaIndex's `is_function` and its programs ask for them.
    """
    message = _assistant(text, calls)
    if calls:
        message.additional_kwargs["tool_calls"] = Message(
            "assistant", tool_calls=tuple(calls)
        ).to_dict()["tool_calls"]
    return message


def _assistant(text: str, calls: Sequence[ToolCall]) -> ChatMessage:
    blocks: list[Any] = [TextBlock(text=text)] if text or not calls else []
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
        for call in calls
    ]
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
