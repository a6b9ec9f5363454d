"""Translate options of OpenAI's Responses API to those of a chat completion.

The kernel's cores use the format of chat completions, which has most options under other names.
Options of OpenAI's service alone have no counterpart; their names are returned, so that an
adapter can give a notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Options about what OpenAI's service stores, or does in addition to answering.
_OF_THE_SERVICE: Final = (
    *("background", "context_management", "continuation_token", "conversation"),
    *("conversation_id", "include", "max_tool_calls", "previous_response_id", "prompt"),
    *("prompt_cache_options", "truncation"),
)
_DEFAULTS: Final = {"truncation": "disabled"}  # as in the kernel: a too long prompt is an error
_WITH_LOGPROBS: Final = "message.output_text.logprobs"


def as_chat_options(raw: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of a chat completion, and the names of options that have no counterpart.

    Input, tools and the tool choice are returned unchanged.
    """
    options = {key: value for key, value in raw.items() if value is not None}
    include = options.get("include") or ()
    unused = [name for name in _OF_THE_SERVICE if _is_set(name, options.pop(name, None))]
    if "top_logprobs" in options or _WITH_LOGPROBS in include:
        options.setdefault("logprobs", True)
        if set(include) == {_WITH_LOGPROBS}:
            unused.remove("include")
    if not options.get("store", True):
        del options["store"]  # nothing is stored anyway
    unused += _spread(options, "reasoning", {"effort": "reasoning_effort"})
    unused += _spread(options, "text", {"format": "response_format", "verbosity": "verbosity"})
    if isinstance(form := options.get("response_format"), Mapping):
        options["response_format"] = _as_chat_format(form)
    return options, tuple(unused)


def _is_set(name: str, value: Any) -> bool:
    return bool(value) and value != _DEFAULTS.get(name)


def _spread(options: dict[str, Any], name: str, names: Mapping[str, str]) -> list[str]:
    """Turn the keys of a nested option into options. Returns the keys that have no counterpart."""
    nested = options.pop(name, None)
    if not isinstance(nested, Mapping):
        return [] if nested is None else [name]
    for key, value in nested.items():
        if key in names and value is not None:
            options.setdefault(names[key], value)
    return [f"{name}.{key}" for key in nested if key not in names and nested[key] is not None]


def _as_chat_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """Nest an answer's JSON schema as chat completions do; the Responses API has it flat."""
    if form.get("type") != "json_schema" or "json_schema" in form:
        return dict(form)
    inside = {key: value for key, value in form.items() if key != "type"}
    return {"type": "json_schema", "json_schema": inside}
