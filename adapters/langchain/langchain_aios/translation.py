"""Translate between LangChain and the kernel: messages, tools, answers, fragments.

Pure functions over plain data; no model, no kernel, no callbacks. Promises: pictures, sound, files,
reasoning, refusals and names are carried, in OpenAI's format, from any of LangChain's formats; a
part that only repeats another (a `tool_use` block next to `tool_calls`) is left out; usage
appears once in a stream. `aios_adapters` reads the parts that are in OpenAI's format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_data_block,
    is_data_content_block,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import (
    ToolCallChunk,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from aios_adapters import ROLES, read_parts, read_response_format
from aios_core import Choice, Completion, Delta, Message, ResponseFormat, ToolCall, ToolSpec, Usage
from aios_core.errors import InvalidRequest
from aios_core.messages import text_of_part

_ROLES: Final = ROLES

# --- requests ----------------------------------------------------------------------------------


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Translate a LangChain conversation to the kernel's messages.

    Raises:
        InvalidRequest: a message or content has an unsupported type; the error names its position.
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
            yield _answer(message)
        case ToolMessage():
            yield _result(message.tool_call_id, message.content, message.name)
        case HumanMessage():
            yield from _user_turn(message)
        case SystemMessage():
            role = message.additional_kwargs.get("__openai_role__", "system")
            yield _turn(role, message.content, name=message.name)
        case ChatMessage() if message.role in _ROLES:
            yield _turn(message.role, message.content, name=message.name)
        case ChatMessage():
            raise InvalidRequest(f"role: got {message.role!r}; allowed: {sorted(_ROLES)}")
        case _:
            raise InvalidRequest(f"{type(message).__name__} cannot be sent to a model")


def _turn(role: str, content: Any, **more: Any) -> Message:
    """Return a message of any role, with its content as text, or as parts if it has others."""
    parts, thoughts = read_parts(map(_openai_block, _blocks(content)))
    if thoughts:
        more.setdefault("thinking", thoughts)
    if isinstance(content, str) or all(part.keys() <= {"type", "text"} for part in parts):
        return Message(_ROLES[role], "".join(map(text_of_part, parts)), **more)
    return Message(_ROLES[role], parts=tuple(parts), **more)


def _blocks(content: Any) -> Sequence[Any]:
    return [content] if isinstance(content, str) else content


def _openai_block(block: Any) -> Any:
    """Return a content block in OpenAI's format.

    Raises:
        InvalidRequest: OpenAI has no such format.
    """
    if not isinstance(block, dict):
        return block
    source = block.get("source")
    if block.get("type") == "image" and isinstance(source, dict):  # Anthropic's
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        url = source.get("url") if source.get("type") == "url" else data
        return {"type": "image_url", "image_url": {"url": url}}
    if not is_data_content_block(block):
        return block
    try:
        return convert_to_openai_data_block(block)
    except (ValueError, KeyError) as exc:
        raise InvalidRequest(f"content of type {block.get('type')!r}: {exc}") from exc


def _answer(message: AIMessage) -> Message:
    """Translate an earlier answer of a model, with its reasoning and its extra fields."""
    about, calls = message.additional_kwargs, _calls_of(message)
    thinking = about.get("thinking_blocks")
    more = {"thinking": tuple(thinking)} if thinking else {}
    return _turn(
        "ai",
        message.content,
        name=message.name,
        tool_calls=calls,
        reasoning=about.get("reasoning_content") or "",
        refusal=about.get("refusal"),
        has_content=bool(message.content) or not calls,
        extra=_extra_of(about),
        **more,
    )


def _extra_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the further fields of an answer that a backend accepts in a request."""
    extra = {key: about[key] for key in ("function_call",) if key in about}
    if audio := about.get("audio"):  # the provider identifies it by its id
        extra["audio"] = {"id": audio["id"]} if "id" in audio else audio
    return extra


def _user_turn(message: HumanMessage) -> Iterator[Message]:
    """Translate a user's message. Tool results in it (Anthropic's format) become tool messages."""
    blocks = _blocks(message.content)
    results = [b for b in blocks if isinstance(b, dict) and b.get("type") == "tool_result"]
    for block in results:
        yield _result(str(block.get("tool_use_id", "")), block.get("content") or "", None)
    rest = [block for block in blocks if block not in results]
    if rest or not results:
        yield _turn("user", rest, name=message.name)


def _result(call_id: str, content: Any, name: str | None) -> Message:
    return _turn("tool", content, tool_call_id=call_id, name=name)


def _calls_of(message: AIMessage) -> tuple[ToolCall, ...]:
    """Return the calls of an earlier answer, including invalid ones: results refer to them."""
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
    """Translate tools of any kind that LangChain accepts (functions, classes, schemas, ...)."""
    return [ToolSpec.from_dict(convert_to_openai_tool(tool)) for tool in tools]


def to_response_format(raw: Any) -> ResponseFormat | None:
    """Translate OpenAI's `response_format`, or a class or schema for the answer."""
    return read_response_format(raw, otherwise=_format_of_schema)


def _format_of_schema(raw: Any) -> ResponseFormat:
    try:
        return ResponseFormat.from_dict(openai_format(raw))
    except (TypeError, ValueError, KeyError) as exc:
        allowed = "a schema, or OpenAI's {'type': 'json_schema', ...}"
        raise InvalidRequest(f"response_format: got {raw!r:.200}; allowed: {allowed}") from exc


def openai_format(schema: Any, strict: bool | None = None) -> dict[str, Any]:
    """Return OpenAI's `response_format` for a class or schema."""
    if isinstance(schema, dict) and "name" in schema and isinstance(schema.get("schema"), dict):
        return {"type": "json_schema", "json_schema": schema}  # it is the inner part already
    function = convert_to_openai_tool(schema, strict=strict)["function"]
    inside = {key: value for key, value in function.items() if key != "parameters"}
    inside["schema"] = function.get("parameters", {"type": "object", "properties": {}})
    return {"type": "json_schema", "json_schema": inside}


# --- answers -----------------------------------------------------------------------------------


def to_result(completion: Completion) -> ChatResult:
    """Translate a whole answer, with the further choices if several were requested."""
    return ChatResult(
        generations=[_generation(completion, choice) for choice in completion.all_choices],
        llm_output={"model_name": completion.model},
    )


def _generation(completion: Completion, choice: Choice) -> ChatGeneration:
    said = choice.message
    message = AIMessage(
        content=said.content,
        additional_kwargs={**thoughts_of(said.reasoning, said.refusal), **rest_of(said)},
        usage_metadata=to_usage(completion.usage),
        response_metadata=_metadata(completion, choice),
    )
    for call in said.tool_calls:
        _add_call(message, call)
    about: dict[str, Any] = {"finish_reason": str(choice.finish_reason)}
    if choice.logprobs is not None:
        about["logprobs"] = dict(choice.logprobs)
    return ChatGeneration(message=message, generation_info=about)


def thoughts_of(reasoning: str, refusal: str | None) -> dict[str, Any]:
    """Return reasoning and refusal as additional arguments of LangChain's messages."""
    said = {"reasoning_content": reasoning, "refusal": refusal}
    return {key: text for key, text in said.items() if text}


def rest_of(message: Message) -> dict[str, Any]:
    """Return the other fields of an answer: signed reasoning, sound, annotations, extra keys."""
    rest = dict(message.extra)
    if message.thinking:
        rest["thinking_blocks"] = [dict(block) for block in message.thinking]
    return rest


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
    """Translate one delta of a stream."""
    fragments: list[ToolCallChunk] = [
        tool_call_chunk(name=part.name, args=part.arguments, id=part.id, index=part.index)
        for part in delta.tool_calls
    ]
    message = AIMessageChunk(
        content=delta.text,
        additional_kwargs=thoughts_of(delta.reasoning, delta.refusal),
        tool_call_chunks=fragments,
    )
    about = {"logprobs": dict(delta.logprobs)} if delta.logprobs else None
    return ChatGenerationChunk(message=message, generation_info=about)


def to_last_chunk(completion: Completion) -> ChatGenerationChunk:
    """Return the last chunk of a stream: no text, but usage and finish reason."""
    message = AIMessageChunk(
        content="",
        additional_kwargs=rest_of(completion.message),
        usage_metadata=to_usage(completion.usage),
        response_metadata=_metadata(completion, completion.all_choices[0]),
        chunk_position="last",
    )
    return ChatGenerationChunk(
        message=message, generation_info={"finish_reason": str(completion.finish_reason)}
    )


def to_usage(usage: Usage) -> UsageMetadata:
    """Translate token counts."""
    read = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.cache_write_tokens:
        read["cache_creation"] = usage.cache_write_tokens
    if usage.audio_input_tokens:
        read["audio"] = usage.audio_input_tokens
    metadata = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=read,
    )
    written = OutputTokenDetails()
    if usage.reasoning_tokens:
        written["reasoning"] = usage.reasoning_tokens
    if usage.audio_output_tokens:
        written["audio"] = usage.audio_output_tokens
    if written:
        metadata["output_token_details"] = written
    return metadata


def _metadata(completion: Completion, choice: Choice) -> dict[str, Any]:
    said = {
        "id": completion.id,
        "system_fingerprint": completion.fingerprint,
        "native_finish_reason": choice.backend_finish_reason,
        "length_reason": completion.length_reason,
    }
    if choice.backend_finish_reason == str(choice.finish_reason):
        del said["native_finish_reason"]
    return {
        **{key: value for key, value in completion.extra.items() if value is not None},
        **{key: value for key, value in said.items() if value is not None},
        "model_provider": "aios",
        "model_name": completion.model,
        "finish_reason": str(choice.finish_reason),
    }
