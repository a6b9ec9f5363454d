"""Translate Anthropic's Messages API, as its client writes and reads it, to the kernel and back.

Pure functions over plain data. Promises: everything in a message, a tool or an option is carried,
under the kernel's name if it has one, else unchanged. Content goes in the format that every core
reads (OpenAI's), except blocks that only Anthropic has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aios_adapters.openai_format import read_tool_choice
from aios_adapters.request_options import split_request_options
from aios_core.errors import InvalidRequest
from aios_core.messages import Message, ResponseFormat, ToolCall, ToolSpec, require_items
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import reads_arguments

#: Where an answer keeps its blocks, if text, thoughts and calls alone cannot restore them.
BLOCKS_KEY: Final = "anthropic_content"

_THOUGHTS: Final = ("thinking", "redacted_thinking")
_KEPT_OF_RESULT: Final = ("is_error", "cache_control")
_KEPT_OF_PART: Final = ("cache_control", "citations", "title", "context")
_PLACES: Final = {"thinking": 0, "redacted_thinking": 0, "text": 1, "tool_use": 2}


@reads_arguments
def read_message_request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the body of a message request as the arguments of `Agent.llm.generate`.

    Options of the connection are left out; unknown keys become `extra`.

    Raises:
        InvalidRequest: a value is malformed; the message names it.
    """
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"request: got {shown_repr(raw)}; allowed: a mapping")
    body = {key: value for key, value in raw.items() if value is not None}
    messages = [*_system(body.pop("system", ())), *_messages(body.pop("messages", ()))]
    tools = [_tool(tool) for tool in require_items("tools", body.pop("tools", ()))]
    choice = body.pop("tool_choice", None)
    output = dict(body.pop("output_config", None) or {})
    form = output.pop("format", None) or body.pop("output_format", None)
    if output:
        body["output_config"] = output
    split = split_request_options(body)
    request: dict[str, Any] = {
        "model": None,
        **split.arguments,
        "messages": messages,
        "tools": tools,
        "tool_choice": read_tool_choice(_named(choice), [tool.name for tool in tools]),
        "extra": split.extra,
    }
    if isinstance(choice, Mapping) and "disable_parallel_tool_use" in choice:
        request["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    if form is not None:
        request["response_format"] = _form(form)
    return request


def _named(choice: Any) -> Any:
    """Return a tool choice without its setting for parallel calls."""
    if not isinstance(choice, Mapping):
        return choice
    return {key: value for key, value in choice.items() if key != "disable_parallel_tool_use"}


def _form(form: Any) -> ResponseFormat:
    schema = form.get("schema") if isinstance(form, Mapping) else None
    if not isinstance(schema, Mapping):
        raise InvalidRequest(
            f"output_config.format: got {shown_repr(form)}; allowed: "
            "{'type': 'json_schema', 'schema': ...}"
        )
    return ResponseFormat(dict(schema))


def _tool(tool: Any) -> ToolSpec:
    """Return a tool; those of the API itself stay as they are."""
    if not isinstance(tool, Mapping) or "input_schema" not in tool:
        return ToolSpec.from_dict(tool)
    inside = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": dict(tool["input_schema"]),
        **({"strict": tool["strict"]} if tool.get("strict") is not None else {}),
    }
    ours = ("name", "description", "input_schema", "strict", "type")
    kept = {key: value for key, value in tool.items() if key not in ours and value is not None}
    return ToolSpec.from_dict({"type": "function", "function": inside, **kept})


# --- messages ------------------------------------------------------------------------------------


def _system(system: Any) -> Iterator[Message]:
    if blocks := _blocks(system):
        yield _message("system", blocks)


def _messages(raw: Any) -> Iterator[Message]:
    for position, one in enumerate(require_items("messages", raw)):
        try:
            yield from _turn(one)
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc


def _turn(raw: Any) -> Iterator[Message]:
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"got {shown_repr(raw)}; allowed: a mapping with role and content")
    blocks = _blocks(raw.get("content"))
    match raw.get("role"):
        case "assistant":
            yield _answer(blocks)
        case "system":
            yield _message("system", blocks)
        case "user":
            yield from _user_turn(blocks)
        case role:
            raise InvalidRequest(f"role: got {shown_repr(role)}; allowed: user, assistant, system")


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = list(require_items("content", content or ()))
    if wrong := [block for block in blocks if not isinstance(block, Mapping)]:
        raise InvalidRequest(f"content block: got {shown_repr(wrong[0])}; allowed: a mapping")
    return [dict(block) for block in blocks]


def _user_turn(blocks: list[dict[str, Any]]) -> Iterator[Message]:
    """Yield a turn of the user; results of tools become messages of their own."""
    rest = []
    for block in blocks:
        if block.get("type") == "tool_result":
            yield _result(block)
        else:
            rest.append(block)
    if rest or not blocks:
        yield _message("user", rest)


def _result(block: Mapping[str, Any]) -> Message:
    extra = {key: block[key] for key in _KEPT_OF_RESULT if block.get(key)}
    return _message(
        "tool",
        _blocks(block.get("content")),
        tool_call_id=str(block.get("tool_use_id") or ""),
        extra=extra,
    )


def _message(role: Any, blocks: list[dict[str, Any]], **fields: Any) -> Message:
    """Return a message: with a text if that is all, else with parts."""
    if all(block.keys() <= {"type", "text"} and block.get("type") == "text" for block in blocks):
        return Message(role, "".join(block.get("text", "") for block in blocks), **fields)
    return Message(role, parts=tuple(map(_part, blocks)), **fields)


def _answer(blocks: list[dict[str, Any]]) -> Message:
    """Return an earlier answer, with all of its blocks if they are in no usual order."""
    places = [_PLACES.get(str(block.get("type")), -1) for block in blocks]
    texts = [block for block in blocks if block.get("type") == "text"]
    is_plain = -1 not in places and places == sorted(places) and len(texts) <= 1
    kept = {} if is_plain and not any("citations" in b for b in texts) else {BLOCKS_KEY: blocks}
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    return Message(
        "assistant",
        "".join(str(block.get("text") or "") for block in texts),
        tool_calls=tuple(map(_call, calls)),
        thinking=tuple(block for block in blocks if block.get("type") in _THOUGHTS),
        has_content=bool(texts or not calls),
        extra=kept,
    )


def _call(block: Mapping[str, Any]) -> ToolCall:
    kept = {key: block[key] for key in ("caller", "cache_control") if block.get(key)}
    function = {"name": block.get("name"), "arguments": block.get("input") or {}}
    return ToolCall.from_dict({"id": block.get("id"), "function": function, **kept})


# --- content -------------------------------------------------------------------------------------


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block in OpenAI's format if it has one there."""
    source = block.get("source")
    if not isinstance(source, Mapping):
        return dict(block)
    kept = {key: block[key] for key in _KEPT_OF_PART if block.get(key)}
    kind, url = block.get("type"), _url(source)
    if kind == "image" and url is not None:
        return {"type": "image_url", "image_url": {"url": url}, **kept}
    is_plain = kept.keys() <= {"cache_control", "title"}
    if kind == "document" and url is not None and url.startswith("data:") and is_plain:
        name = kept.pop("title", None)
        file = {"file_data": url, **({"filename": name} if name else {})}
        return {"type": "file", "file": file, **kept}
    return dict(block)


def _url(source: Mapping[str, Any]) -> str | None:
    match source.get("type"):
        case "base64":
            return f"data:{source.get('media_type')};base64,{source.get('data')}"
        case "url":
            return str(source.get("url"))
        case _:
            return None


def read_betas(header: str | None) -> Iterable[str]:
    """Return the names in a header ``anthropic-beta``."""
    return [name.strip() for name in (header or "").split(",") if name.strip()]
