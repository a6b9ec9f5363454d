"""Translate requests into bodies of OpenAI's Responses API.

Pure, without a client. The API differs from chat completions in form: turns, tool calls, tool
results and thoughts are separate items, tools have no envelope, and a function is strict by
default. `aios_core.cores.openai.responses_events` reads the answers.
Source: OpenAI's API reference (responses), and its guide to migrating from chat completions.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.messages import GENERAL_CHOICES, Message, ResponseFormat, Sampling, ToolChoice
from aios_core.syscalls import LLMGenerate

PATH: Final = "/responses"
LIMIT_KEY: Final = "max_output_tokens"
ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"  # what `include` asks for
_LOGPROBS: Final = "message.output_text.logprobs"

_SENT: Final = ("temperature", "top_p", "top_logprobs")  # under the same names
#: Where options of chat completions are in a body of this API.
_MOVED: Final = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}


def responses_body(
    request: LLMGenerate, model: str, *, token_limit: int | None = None, encrypted: bool = True
) -> dict[str, Any]:
    """Build the body of a streaming response.

    Nothing is stored at the provider, so the thoughts of a model are requested in encrypted form
    and are part of the next prompt, as the API requires for a conversation with tools.

    Args:
        request: the LLM request.
        model: the model to send it to.
        token_limit: a budget's limit of the answer's tokens; None: no limit.
        encrypted: whether to request encrypted thoughts. Models without thoughts refuse that.

    Raises:
        InvalidRequest: the request has a setting that the API does not have.
    """
    calls = [call for message in request.messages for call in message.tool_calls]
    custom = {call.id for call in calls if call.kind == "custom"}
    body: dict[str, Any] = {
        "model": model,
        "input": [item for message in request.messages for item in _items(message, custom)],
        "stream": True,
        "store": False,
        **_sampling(request.sampling, token_limit),
        **_tools(request),
    }
    if encrypted:
        body["include"] = [*body.get("include", ()), ENCRYPTED_REASONING]
    if request.response_format is not None:
        body["text"] = {"format": _format(request.response_format)}
    return _with_extra(body, request.extra)


def _sampling(sampling: Sampling, token_limit: int | None) -> dict[str, Any]:
    given = sampling.to_dict()
    own = given.pop("max_tokens", None)
    wants_logprobs = given.pop("logprobs", False)
    if given.get("n") == 1:
        del given["n"]
    if unknown := sorted(given.keys() - set(_SENT)):
        raise InvalidRequest(
            f"{unknown[0]}: OpenAI's Responses API has no such setting; leave it out, or set "
            'api = "chat" in the options of the core if the model has chat completions'
        )
    body = dict(given)
    if (limit := token_limit if own is None else own) is not None:
        body[LIMIT_KEY] = limit
    if wants_logprobs or "top_logprobs" in given:
        body["include"] = [_LOGPROBS]
    return body


# --- turns ----------------------------------------------------------------------------------------


def _items(message: Message, custom: Container[str | None]) -> Iterator[dict[str, Any]]:
    """Yield the items of one turn: thoughts, text, tool calls, or the result of a tool."""
    if message.role == "tool":
        kind = "custom_tool_call" if message.tool_call_id in custom else "function_call"
        yield _result(message, f"{kind}_output")
        return
    for block in message.thinking:
        if block.get("type") == "reasoning":  # thoughts of another provider cannot be sent
            yield dict(block)
    content = _content(message)
    if content or message.role != "assistant":
        yield {"type": "message", "role": message.role, "content": content}
    for call in message.tool_calls:
        key = "input" if call.kind == "custom" else "arguments"
        kind = "custom_tool_call" if call.kind == "custom" else "function_call"
        yield {"type": kind, "call_id": call.id, "name": call.name, key: call.arguments}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if message.role == "assistant":
        if not message.refusal:
            return message.content
        text = [{"type": "output_text", "text": message.content}] if message.content else []
        return [*text, {"type": "refusal", "refusal": message.refusal}]
    return [_part(part) for part in message.parts] or message.content


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a content part; parts of the Responses API, and unknown ones, stay as they are."""
    match part.get("type"):
        case "text":
            return {**part, "type": "input_text"}
        case "image_url":
            image = part.get("image_url")
            image = {"url": image} if isinstance(image, str) else dict(image or {})
            image["image_url"] = image.pop("url", None)
            return {"type": "input_image", **image}
        case "file":
            return {"type": "input_file", **dict(part.get("file") or {})}
        case _:
            return dict(part)


def _result(message: Message, kind: str) -> dict[str, Any]:
    output: Any = [_part(part) for part in message.parts] or message.content
    return {"type": kind, "call_id": message.tool_call_id, "output": output}


# --- tools and the form of the answer -------------------------------------------------------------


def _tools(request: LLMGenerate) -> dict[str, Any]:
    if not request.tools:
        return {}
    body: dict[str, Any] = {"tools": [_flat_tool(tool.to_dict()) for tool in request.tools]}
    if request.tool_choice is not None:
        body["tool_choice"] = _choice(request, request.tool_choice)
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def _flat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the envelope of a tool. A function without `strict` is not strict, as in a chat."""
    flat = _flat(tool)
    return {"strict": False, **flat} if flat.get("type") == "function" else flat


def _flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move the content of an envelope, which has the name of the type, to the top."""
    kind = raw.get("type")
    inside = raw.get(kind) if isinstance(kind, str) else None
    if not isinstance(inside, Mapping):
        return dict(raw)
    return {"type": kind, **{k: v for k, v in raw.items() if k not in ("type", kind)}, **inside}


def _choice(request: LLMGenerate, choice: ToolChoice) -> Any:
    if isinstance(choice, Mapping):
        return _flat(choice)
    if choice in GENERAL_CHOICES:
        return choice
    kind = next((tool.kind for tool in request.tools if tool.name == choice), "function")
    return {"type": kind, "name": choice} if kind in ("function", "custom") else {"type": kind}


def _format(response_format: ResponseFormat) -> dict[str, Any]:
    return _flat(response_format.to_dict())


def _with_extra(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Add the caller's own parameters; nested ones keep the keys that are set already."""
    for key, value in extra.items():
        outer, inner = _MOVED.get(key, (key, ""))
        given, known = {inner: value} if inner else value, body.get(outer)
        both = isinstance(known, Mapping) and isinstance(given, Mapping)
        body[outer] = {**known, **given} if both else given  # type: ignore[dict-item]
    return body
