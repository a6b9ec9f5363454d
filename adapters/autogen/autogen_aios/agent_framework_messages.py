"""Translate between Agent Framework and the kernel: messages, tools, answers, updates.

Pure functions over plain data. Promises: images, audio and files are sent as parts of a
message in OpenAI's format, and a core that does not support them refuses them by name; content
that has no such form is refused with its type and position, and never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from aios_adapters import read_tool_choice
from aios_core import Completion, Delta, FinishReason, ToolCall, ToolSpec, Usage
from aios_core import Message as KernelMessage
from aios_core.errors import InvalidRequest
from autogen_aios.missing_extra import missing_extra_error

try:
    from agent_framework import (
        ChatResponse,
        ChatResponseUpdate,
        Content,
        FunctionTool,
        Message,
        UsageDetails,
    )
except ModuleNotFoundError as exc:
    raise missing_extra_error(__name__, exc, "agent-framework") from exc

# Content that is not sent to a model: the framework's own state.
_NOT_SENT: Final = frozenset({"function_approval_request", "function_approval_response", "usage"})
_FINISH_REASONS: Final[
    Mapping[FinishReason, Literal["stop", "length", "tool_calls", "content_filter"]]
] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
}


def to_instructions(options: Mapping[str, Any]) -> Iterator[KernelMessage]:
    """Yield the instructions in a call's options as the first message."""
    if instructions := options.get("instructions"):
        yield KernelMessage("system", instructions)


def to_messages(messages: Sequence[Message]) -> Iterator[KernelMessage]:
    """Translate the framework's messages.

    Raises:
        InvalidRequest: a message cannot be translated; the error names its position, from 0.
    """
    for position, message in enumerate(messages):
        try:
            yield from _message(message)
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc


def _message(message: Message) -> Iterator[KernelMessage]:
    """Translate one message; each function result becomes a separate message."""
    parts: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    thoughts: list[Content] = []
    for content in message.contents:
        match content.type:
            case "function_call":
                calls.append(_call(content))
            case "function_result":
                yield _result(content)
            case "text_reasoning":
                thoughts.append(content)
            case kind if kind not in _NOT_SENT:
                parts.append(_part(content))
            case _:
                pass
    if parts or calls or thoughts:
        yield _to_message(message, parts, calls, thoughts)


def _to_message(
    message: Message,
    parts: Sequence[Mapping[str, Any]],
    calls: Sequence[ToolCall],
    thoughts: Sequence[Content],
) -> KernelMessage:
    is_text = all(part["type"] == "text" for part in parts)
    details = [json.loads(one.protected_data) for one in thoughts if one.protected_data]
    signed = [block for one in details for block in (one if isinstance(one, list) else [one])]
    return KernelMessage(
        str(message.role),  # type: ignore[arg-type] # checked there
        "".join(part["text"] for part in parts) if is_text else "",
        tuple(calls),
        name=message.author_name if message.role != "tool" else None,
        parts=() if is_text else tuple(parts),
        reasoning="".join(one.text or "" for one in thoughts),
        thinking=tuple(signed),
        thinking_key="reasoning_details",
    )


def _part(content: Content) -> dict[str, Any]:
    """Translate a content to a message part in OpenAI's format."""
    match content.type, (content.media_type or "").partition("/")[0]:
        case "text", _:
            return {"type": "text", "text": content.text or ""}
        case (("uri" | "data"), "image"):
            detail = (content.additional_properties or {}).get("detail")
            more = {"detail": detail} if detail else {}
            return {"type": "image_url", "image_url": {"url": content.uri, **more}}
        case (("uri" | "data"), "audio"):
            kind = str(content.media_type).partition("/")[2].removeprefix("x-")
            data = str(content.uri).partition("base64,")[2] or content.uri
            return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
        case (("uri" | "data"), _):
            name = (content.additional_properties or {}).get("filename") or "file"
            return {"type": "file", "file": {"filename": name, "file_data": content.uri}}
        case "hosted_file", _:
            return {"type": "file", "file": {"file_id": content.file_id}}
        case kind, _:
            allowed = "texts, data, URIs, hosted files, reasoning, function calls and results"
            raise InvalidRequest(f"content of type {kind!r}; allowed: {allowed}")


def _call(content: Content) -> ToolCall:
    arguments = content.arguments
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(content.call_id or "", content.name or "", arguments)


def _result(content: Content) -> KernelMessage:
    parts = [_part(item) for item in content.items or ()]
    if all(part["type"] == "text" for part in parts):
        text = "\n".join(part["text"] for part in parts) if parts else _result_text(content)
        return KernelMessage("tool", text, tool_call_id=content.call_id)
    return KernelMessage("tool", tool_call_id=content.call_id, parts=tuple(parts))


def _result_text(content: Content) -> str:
    if content.result is None:
        return str(content.exception or "")
    return content.result if isinstance(content.result, str) else json.dumps(content.result)


def to_tools(tools: Sequence[Any], choice: Any) -> list[ToolSpec]:
    """Translate the tools that may be called: all, or those that the choice allows."""
    specs = [_to_tool(tool) for tool in tools]
    allowed = choice.get("allowed_tools") if isinstance(choice, Mapping) else None
    return specs if allowed is None else [spec for spec in specs if spec.name in allowed]


def _to_tool(tool: Any) -> ToolSpec:
    return ToolSpec.from_dict(
        tool.to_json_schema_spec() if isinstance(tool, FunctionTool) else tool
    )


def to_tool_choice(choice: Any, names: Sequence[str]) -> Any:
    """Translate a tool choice; None if there are no tools."""
    if isinstance(choice, Mapping):
        name = choice.get("required_function_name")
        choice = {"name": name} if name else choice.get("mode")
    return read_tool_choice(choice, names) if names else None


def to_format(wanted: Any) -> Any:
    """Translate an answer's format, which may be a bare JSON schema."""
    is_openai = isinstance(wanted, Mapping) and wanted.get("type") in {
        "json_object",
        "json_schema",
        "text",
    }
    if isinstance(wanted, Mapping) and not is_openai:
        return {"type": "json_schema", "json_schema": {"schema": dict(wanted)}}
    return wanted


def to_response(completion: Completion, response_format: Any) -> ChatResponse:
    """Translate a whole answer."""
    return ChatResponse(
        messages=[
            Message("assistant", _answer_contents(choice.message))
            for choice in completion.all_choices
        ],
        response_id=completion.id,
        model=completion.model,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        usage_details=_usage(completion.usage),
        response_format=response_format,
        additional_properties=_properties(completion),
    )


def _answer_contents(message: KernelMessage) -> list[Content]:
    contents = []
    if message.thinking or message.reasoning:
        signed = json.dumps([dict(one) for one in message.thinking]) if message.thinking else None
        contents.append(
            Content.from_text_reasoning(text=message.reasoning or None, protected_data=signed)
        )
    if message.content:
        contents.append(Content.from_text(message.content))
    if message.refusal:
        contents.append(_refusal(message.refusal))
    contents += [
        Content.from_function_call(call.id, call.name, arguments=call.arguments or "{}")
        for call in message.tool_calls
    ]
    return contents


def _refusal(text: str) -> Content:
    return Content.from_text(text, additional_properties={"model_output": "refusal"})


def _properties(completion: Completion) -> dict[str, Any]:
    """Return the parts of an answer that the framework has no field for."""
    properties = {
        "logprobs": completion.logprobs,
        "system_fingerprint": completion.fingerprint,
        "native_finish_reason": completion.backend_finish_reason,
    }
    return {key: value for key, value in properties.items() if value is not None}


def to_contents(delta: Delta, calls: dict[int, str]) -> Iterator[Content]:
    """Yield the contents that a delta adds. Fragments of one tool call share its id."""
    if delta.reasoning or delta.thinking:
        signed = json.dumps([dict(one) for one in delta.thinking]) if delta.thinking else None
        yield Content.from_text_reasoning(text=delta.reasoning or None, protected_data=signed)
    if delta.text:
        yield Content.from_text(delta.text)
    if delta.refusal:
        yield _refusal(delta.refusal)
    for part in delta.tool_calls:
        call_id = calls.setdefault(part.index, part.id or f"call_{part.index}")
        yield Content.from_function_call(call_id, part.name or "", arguments=part.arguments)


def to_last_update(completion: Completion) -> ChatResponseUpdate:
    """Return the last update of a stream, with usage and finish reason."""
    return ChatResponseUpdate(
        contents=[Content.from_usage(_usage(completion.usage))],
        role="assistant",
        model=completion.model,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        response_id=completion.id,
        additional_properties=_properties(completion),
    )


def _usage(usage: Usage) -> UsageDetails:
    return UsageDetails(
        input_token_count=usage.input_tokens,
        output_token_count=usage.output_tokens,
        total_token_count=usage.total_tokens,
        cache_read_input_token_count=usage.cached_tokens,
        cache_creation_input_token_count=usage.cache_write_tokens,
        reasoning_output_token_count=usage.reasoning_tokens,
    )
