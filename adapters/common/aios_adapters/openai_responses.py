"""Translate options of OpenAI's Responses API to those of a chat completion.

The kernel's cores speak chat completions, which have most options under other names. What only
OpenAI's service does has none; its names are returned, so that an adapter can say them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# What OpenAI's service keeps or does besides answering.
_OF_THE_SERVICE: Final = (
    *("background", "context_management", "continuation_token", "conversation"),
    *("conversation_id", "include", "max_tool_calls", "previous_response_id", "prompt"),
    *("prompt_cache_options", "truncation"),
)
_IS_DEFAULT: Final = {"truncation": "disabled"}  # a prompt that is too long is an error
_WITH_LOGPROBS: Final = "message.output_text.logprobs"


def as_chat_options(said: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options of a chat completion, and the names of options that have no counterpart.

    Input, tools and their choice are left as they are.
    """
    options = {key: value for key, value in said.items() if value is not None}
    include = options.get("include") or ()
    unused = [name for name in _OF_THE_SERVICE if _is_said(name, options.pop(name, None))]
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


def _is_said(name: str, value: Any) -> bool:
    return bool(value) and value != _IS_DEFAULT.get(name)


def _spread(options: dict[str, Any], name: str, names: Mapping[str, str]) -> list[str]:
    """Give the keys of an option names of their own; returns those that have none."""
    nested = options.pop(name, None)
    if not isinstance(nested, Mapping):
        return [] if nested is None else [name]
    for key, value in nested.items():
        if key in names and value is not None:
            options.setdefault(names[key], value)
    return [f"{name}.{key}" for key in nested if key not in names and nested[key] is not None]


def _as_chat_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """The format of an answer, in which the Responses API nests nothing."""
    if form.get("type") != "json_schema" or "json_schema" in form:
        return dict(form)
    inside = {key: value for key, value in form.items() if key != "type"}
    return {"type": "json_schema", "json_schema": inside}
