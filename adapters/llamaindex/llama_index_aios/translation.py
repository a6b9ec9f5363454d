"""Translate between LlamaIndex and the kernel: messages, tools, answers, fragments.

Promises: images, audio, video and files are sent as parts of a message in OpenAI's format,
and a core that does not support them refuses them by name; a model's reasoning is carried in
both directions; a block that has no such form is refused by name and never dropped; usage
appears once in a stream, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.tools.types import BaseTool

from aios_adapters import write_completion
from aios_core import Completion, Delta, Message, ToolCall, ToolSpec
from aios_core.errors import InvalidRequest

_ROLES: Final = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "developer",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_OF_A_MESSAGE: Final = frozenset({"tool_calls", "tool_call_id", "call_id", "name", "refusal"})


# --- requests ------------------------------------------------------------------------------------


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Translate a LlamaIndex conversation.

    Raises:
        InvalidRequest: a message cannot be translated; the error names its position, from 0.
    """
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
        raise InvalidRequest(f"role: got {message.role!r}; allowed: {sorted(_ROLES)}")
    said = message.additional_kwargs
    call_id = said.get("tool_call_id") or said.get("call_id")
    parts = _parts(message.blocks)
    is_text = all(part.keys() == {"type", "text"} for part in parts)
    reasoning, thinking = _thoughts(message.blocks) if role == "assistant" else ("", ())
    return Message(
        role,
        "".join(part["text"] for part in parts) if is_text else "",
        tool_calls=tuple(_calls(message)) if role == "assistant" else (),
        tool_call_id=call_id if role == "tool" else None,
        name=said.get("name"),
        parts=() if is_text else tuple(parts),
        reasoning=reasoning,
        thinking=thinking,
        refusal=said.get("refusal"),
        extra={key: value for key, value in said.items() if key not in _OF_A_MESSAGE},
    )


def _parts(blocks: Iterable[Any]) -> list[dict[str, Any]]:
    """Translate content blocks; a cache mark belongs to the part before it."""
    parts: list[dict[str, Any]] = []
    for block in blocks:
        match block:
            case ToolCallBlock() | ThinkingBlock():
                pass
            case CachePoint() if parts:
                parts[-1]["cache_control"] = {
                    "type": block.cache_control.type,
                    "ttl": block.cache_control.ttl,
                }
            case CachePoint():
                pass
            case CitableBlock():
                parts += _parts(block.content)
            case CitationBlock():
                parts += _parts([block.cited_content])
            case _:
                parts.append(_part(block))
    return parts


def _part(block: Any) -> dict[str, Any]:
    match block:
        case TextBlock():
            return {"type": "text", "text": block.text}
        case ImageBlock():
            detail = {"detail": block.detail} if block.detail else {}
            return {"type": "image_url", "image_url": {"url": _url(block), **detail}}
        case AudioBlock():
            data = _text_in(block.resolve_audio(as_base64=True))
            return {"type": "input_audio", "input_audio": {"data": data, "format": block.format}}
        case VideoBlock():
            return {"type": "video_url", "video_url": {"url": _url(block)}}
        case DocumentBlock():
            name = block.title or "document"
            return {"type": "file", "file": {"filename": name, "file_data": block.inline_url()}}
        case _:
            kind = type(block).__name__
            raise InvalidRequest(
                f"content of type {kind!r} cannot be sent in a chat; use a TextBlock"
            )


def _url(block: ImageBlock | VideoBlock) -> str:
    """Return the URL of a content, or the content as a data URL."""
    return str(block.url) if block.url else block.inline_url()


def _text_in(data: Any) -> str:
    content = data.read()
    return content.decode() if isinstance(content, bytes) else str(content)


def _thoughts(blocks: Iterable[Any]) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Return reasoning as text, and the blocks that a provider has signed."""
    thoughts = [block for block in blocks if isinstance(block, ThinkingBlock)]
    plain = [block.content or "" for block in thoughts if not block.additional_information]
    signed = tuple(
        {"type": "thinking", "thinking": block.content or "", **block.additional_information}
        for block in thoughts
        if block.additional_information
    )
    return "".join(plain), signed


def _calls(message: ChatMessage) -> Iterator[ToolCall]:
    """Yield the calls of an earlier answer: from blocks, or from older code's extra arguments."""
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
    """Translate a call of OpenAI's, as a dictionary or an object."""
    function = call["function"] if isinstance(call, dict) else call.function
    if isinstance(function, dict):
        return ToolCall(call["id"], function["name"], function["arguments"])
    return ToolCall(call.id, function.name, function.arguments)


def to_tools(tools: Iterable[Any]) -> list[ToolSpec]:
    """Translate LlamaIndex's tools, or OpenAI's dictionaries."""
    return [
        ToolSpec.from_dict(tool.metadata.to_openai_tool(skip_length_check=True))
        if isinstance(tool, BaseTool)
        else ToolSpec.from_dict(tool)
        for tool in tools
    ]


# --- answers -------------------------------------------------------------------------------------


def to_chat_response(completion: Completion) -> ChatResponse:
    """Translate a whole answer."""
    return ChatResponse(
        message=_assistant(completion.message),
        raw=write_completion(completion),
        logprobs=_logprobs(completion.logprobs),
        additional_kwargs=to_usage(completion),
    )


def _logprobs(raw: Mapping[str, Any] | None) -> list[list[LogProb]] | None:
    """Translate log probabilities in OpenAI's format."""
    if not raw or not raw.get("content"):
        return None
    return [list(map(_logprob, one.get("top_logprobs") or [one])) for one in raw["content"]]


def _logprob(raw: Mapping[str, Any]) -> LogProb:
    return LogProb(token=raw["token"], logprob=raw["logprob"], bytes=raw.get("bytes") or [])


def to_usage(completion: Completion) -> dict[str, int]:
    """Return the token counts under the names that LlamaIndex's token counters read."""
    usage = completion.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def to_completion_response(response: ChatResponse) -> CompletionResponse:
    """Translate a chat answer to an answer to a prompt without roles."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs=response.additional_kwargs,
    )


class Accumulator:
    """The steps of a stream; each has the whole answer so far, as LlamaIndex requires."""

    def __init__(self) -> None:
        self._text = ""
        self._reasoning = ""
        self._refusal = ""
        self._calls: dict[int, list[str]] = {}  # index -> id, name, arguments so far

    def step(self, delta: Delta) -> ChatResponse:
        """Add a delta. Returns the step."""
        self._text += delta.text
        self._reasoning += delta.reasoning
        self._refusal += delta.refusal
        for part in delta.tool_calls:
            call = self._calls.setdefault(part.index, ["", "", ""])
            call[0] += part.id or ""
            call[1] += part.name or ""
            call[2] += part.arguments
        so_far = Message(
            "assistant",
            self._text,
            tool_calls=tuple(ToolCall(*self._calls[index]) for index in sorted(self._calls)),
            reasoning=self._reasoning,
            refusal=self._refusal or None,
        )
        more = {"thinking_delta": delta.reasoning} if delta.reasoning else {}
        return ChatResponse(
            message=_streamed(so_far),
            delta=delta.text,
            logprobs=_logprobs(delta.logprobs),
            additional_kwargs=more,
        )

    def end(self, completion: Completion) -> ChatResponse:
        """Return the last step: the whole answer and its usage."""
        response = to_chat_response(completion)
        response.message = _streamed(completion.message)
        response.delta = ""
        return response


def _streamed(message: Message) -> ChatMessage:
    """Return a message that has its calls in the additional arguments too.

    OpenAI's LLM has them there; LlamaIndex's `is_function` and its programs read them.
    """
    said = _assistant(message)
    if message.tool_calls:
        said.additional_kwargs["tool_calls"] = message.to_dict()["tool_calls"]
    return said


def _assistant(message: Message) -> ChatMessage:
    text = message.content or message.refusal or ""
    blocks: list[Any] = list(_thinking_blocks(message))
    blocks += [TextBlock(text=text)] if text or not message.tool_calls else []
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
        for call in message.tool_calls
    ]
    refused = {"refusal": message.refusal} if message.refusal else {}
    return ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=blocks,
        additional_kwargs={**message.extra, **refused},
    )


def _thinking_blocks(message: Message) -> Iterator[ThinkingBlock]:
    for block in message.thinking:
        rest = {key: value for key, value in block.items() if key not in ("type", "thinking")}
        yield ThinkingBlock(content=block.get("thinking") or "", additional_information=rest)
    if message.reasoning and not message.thinking:
        yield ThinkingBlock(content=message.reasoning)
