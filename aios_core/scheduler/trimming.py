"""Shorten answers to a number of tokens. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aios_core.messages import Delta, Message, ToolCall, ToolCallDelta
from aios_core.token_estimate import TokenRatio


def start_of_delta(delta: Delta, num_tokens: int, ratio: TokenRatio) -> Delta:
    """Return the start of a delta, up to that many tokens."""
    return replace(delta, **_changes(delta, "text", num_tokens, ratio))


def start_of_message(message: Message, num_tokens: int, ratio: TokenRatio) -> Message:
    """Return the start of an assistant's message, up to that many tokens."""
    return replace(message, **_changes(message, "content", num_tokens, ratio))


def _changes(
    answer: Delta | Message, text_key: str, num_tokens: int, ratio: TokenRatio
) -> dict[str, Any]:
    """What is to be shortened, in the order in which a model writes.

    That is reasoning, text, a refusal, tool calls.
    """
    left = num_tokens
    changes: dict[str, Any] = {}
    for key in ("reasoning", text_key, "refusal"):
        if said := getattr(answer, key, None):
            kept = ratio.start_of(said, left) if left > 0 else ""
            left -= ratio.tokens_in(kept)
            changes |= {} if kept == said else {key: kept}
    if changes and answer.thinking:
        changes["thinking"] = ()  # its signatures are of the whole
    if answer.tool_calls:
        changes["tool_calls"] = tuple(_first_calls(answer.tool_calls, left, ratio))
    return changes


def _first_calls(
    calls: tuple[ToolCall, ...] | tuple[ToolCallDelta, ...], left: int, ratio: TokenRatio
) -> list[Any]:
    """The calls that begin within the limit, the last one with as much as is within it."""
    kept = []
    for call in calls:
        if left <= 0:
            break
        left -= ratio.tokens_in(call.name or "")
        arguments = ratio.start_of(call.arguments, left) if left > 0 else ""
        left -= ratio.tokens_in(arguments)
        kept.append(replace(call, arguments=arguments))
    return kept
