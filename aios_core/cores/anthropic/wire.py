"""Translate requests into bodies of Anthropic's Messages API.

Pure, without a client. Settings that the API does not know are left out: seed, penalties,
`min_p`, `logit_bias` and log probabilities. A temperature above 1 is sent as 1, as Anthropic's
own endpoint in OpenAI's format does. Source: Anthropic's API reference (Messages, tool use).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aios_core.cores.anthropic.answer_format import AnswerForm
from aios_core.cores.anthropic.prompt_cache import CacheTime, place_breakpoints
from aios_core.cores.anthropic.turns import turns_of
from aios_core.errors import InvalidRequest
from aios_core.messages import Sampling, ToolSpec
from aios_core.redaction import shown_repr
from aios_core.syscalls import LLMGenerate

BETAS_KEY: Final = "betas"  # of a request's `extra`; sent as a header

_MOST_TEMPERATURE: Final = 1.0
_GENERAL: Final[Mapping[str, str]] = {"auto": "auto", "none": "none", "required": "any"}
_NOT_COUNTED: Final = (
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
    "service_tier",
)


def message_body(
    request: LLMGenerate,
    model: str,
    *,
    max_tokens: int,
    form: AnswerForm,
    cache_time: CacheTime | None,
) -> dict[str, Any]:
    """Build the body of a streamed message. Raises `InvalidRequest`.

    Args:
        request: the call.
        model: the model that answers.
        max_tokens: of the answer.
        form: how the answer is constrained to JSON.
        cache_time: how long the provider keeps the prompt; None: it does not.
    """
    turns = turns_of(request.messages)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "messages": turns.messages,
        "stream": True,
        **_sampling(request.sampling),
        **_tools(request, form),
    }
    if turns.system:
        body["system"] = turns.system
    body |= {key: value for key, value in request.extra.items() if key != BETAS_KEY}
    if form.schema is not None:
        wanted = {"type": "json_schema", "schema": dict(form.schema)}
        body["output_config"] = {**body.get("output_config", {}), "format": wanted}
    if cache_time is not None:
        has_answers = any(turn["role"] == "assistant" for turn in turns.messages)
        place_breakpoints(body, cache_time, goes_on=bool(request.tools) or has_answers)
    return body


def count_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that counts the prompt of another body (`/v1/messages/count_tokens`)."""
    return {key: value for key, value in body.items() if key not in _NOT_COUNTED}


def betas_of(request: LLMGenerate) -> tuple[str, ...]:
    """Return the beta features that a request asks for."""
    given = request.extra.get(BETAS_KEY) or ()
    given = (given,) if isinstance(given, str) else given
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise InvalidRequest(f"betas: got {shown_repr(given)}; allowed: a list of names")
    return tuple(given)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if (temperature := sampling.temperature) is not None:
        out["temperature"] = min(temperature, _MOST_TEMPERATURE)
    if sampling.top_p is not None:
        out["top_p"] = sampling.top_p
    if sampling.top_k is not None and sampling.top_k > 0:  # -1 means all tokens
        out["top_k"] = sampling.top_k
    if sampling.stop:
        out["stop_sequences"] = list(sampling.stop)
    return out


def _tools(request: LLMGenerate, form: AnswerForm) -> dict[str, Any]:
    tools = [_tool(tool) for tool in request.tools]
    if form.tool is not None:
        tools.append(dict(form.tool))
    if not tools:
        return _tools_of_history(request)
    out: dict[str, Any] = {"tools": tools}
    if (choice := _choice(request, form)) is not None:
        out["tool_choice"] = choice
    return out


def _tool(tool: ToolSpec) -> dict[str, Any]:
    """Return a tool in the API's format; tools of the API itself stay as they are."""
    raw = tool.raw or {}
    if tool.kind == "custom" and "input_schema" not in raw:
        raise InvalidRequest(
            f"tool {tool.name!r}: Claude has no tools with arguments of free text; "
            "allowed: type 'function', with a JSON schema"
        )
    if tool.kind != "function":
        return dict(raw)
    out: dict[str, Any] = {"name": tool.name}
    if tool.description:
        out["description"] = tool.description
    out["input_schema"] = {"type": "object", **tool.parameters}
    if tool.strict:
        out["strict"] = True
    kept = ("cache_control", "defer_loading", "input_examples", "eager_input_streaming")
    return out | {key: raw[key] for key in kept if key in raw}


def _tools_of_history(request: LLMGenerate) -> dict[str, Any]:
    """Return the tools that earlier answers called: the API wants to know them."""
    called = {call.name: None for message in request.messages for call in message.tool_calls}
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in called]
    return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}


def _choice(request: LLMGenerate, form: AnswerForm) -> dict[str, Any] | None:
    """Return how the model has to choose a tool; None for the API's default."""
    choice = _chosen(request)
    if form.tool_name is not None:
        choice = _choice_of_form(request, choice, form.tool_name)
    is_set = "disable_parallel_tool_use" in (choice or {})
    if request.parallel_tool_calls is None or is_set or (choice or {}).get("type") == "none":
        return choice
    is_single = not request.parallel_tool_calls
    if choice is None and not is_single:
        return None
    return {**(choice or {"type": "auto"}), "disable_parallel_tool_use": is_single}


def _choice_of_form(
    request: LLMGenerate, choice: dict[str, Any] | None, tool: str
) -> dict[str, Any] | None:
    """Return the choice that makes the model answer by a tool, or by one of the caller's."""
    if _thinks(request):  # the API forces no tool then
        return choice
    may_call_others = request.tools and (choice or {}).get("type") != "none"
    if not may_call_others:
        return {"type": "tool", "name": tool, "disable_parallel_tool_use": True}
    return {"type": "any"} if choice is None or choice["type"] == "auto" else choice


def _thinks(request: LLMGenerate) -> bool:
    thinking = request.extra.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") != "disabled"


def _chosen(request: LLMGenerate) -> dict[str, Any] | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str):
        kind = _GENERAL.get(choice)
        return {"type": kind} if kind else {"type": "tool", "name": choice}
    kind = choice.get("type")
    inside = choice.get("function")
    if kind == "function" and isinstance(inside, Mapping) and "name" in inside:
        return {"type": "tool", "name": inside["name"]}
    if kind in ("auto", "any", "none", "tool"):
        return dict(choice)
    raise InvalidRequest(
        f"tool_choice: got {shown_repr(choice)}; allowed: 'auto', 'none', 'required', a tool's name"
    )
