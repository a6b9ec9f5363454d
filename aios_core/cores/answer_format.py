"""Read and write answers and deltas as JSON objects, for recordings and snapshots.

Empty fields are not written, so that a plain answer is as short as in the first format,
which can still be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from aios_core.errors import InvalidRequest
from aios_core.messages import (
    Choice,
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCallDelta,
    Usage,
)

_BROKEN = (AttributeError, KeyError, TypeError, ValueError, InvalidRequest)
_PLAIN_KEYS = ("logprobs", "backend_finish_reason", "id", "fingerprint", "extra", "choice_extra")
_DELTA_KEYS = (
    "reasoning",
    "refusal",
    "logprobs",
    "extra",
    "choice",
    "reasoning_key",
    "thinking_key",
)


def encode_completion(completion: Completion) -> dict[str, Any]:
    """Return an answer as a JSON object."""
    out: dict[str, Any] = {
        "message": completion.message.to_dict(),
        "finish_reason": completion.finish_reason.value,
        "usage": encode_usage(completion.usage),
        "model": completion.model,
    }
    if completion.choices:
        out["choices"] = [_encode_choice(choice) for choice in completion.choices]
    return out | {key: value for key in _PLAIN_KEYS if (value := getattr(completion, key))}


def decode_completion(raw: Mapping[str, Any]) -> Completion:
    """Read what `encode_completion` wrote. Raises `ValueError` if the object is damaged."""
    try:
        return Completion(
            message=Message.from_dict(raw["message"]),
            finish_reason=FinishReason(raw["finish_reason"]),
            usage=decode_usage(raw["usage"]),
            model=str(raw["model"]),
            choices=tuple(map(_decode_choice, raw.get("choices", ()))),
            **{key: raw[key] for key in _PLAIN_KEYS if key in raw},
        )
    except _BROKEN as exc:
        raise ValueError(f"not an answer: {exc!r}") from exc


def _encode_choice(choice: Choice) -> dict[str, Any]:
    rest = ("logprobs", "backend_finish_reason", "extra")
    return {
        "message": choice.message.to_dict(),
        "finish_reason": choice.finish_reason.value,
        **{key: value for key in rest if (value := getattr(choice, key))},
    }


def _decode_choice(raw: Mapping[str, Any]) -> Choice:
    return Choice(
        **{
            **raw,
            "message": Message.from_dict(raw["message"]),
            "finish_reason": FinishReason(raw["finish_reason"]),
        }
    )


def encode_usage(usage: Usage) -> list[int] | dict[str, Any]:
    """Return usage as a list of three counts, or as a mapping if other fields are set."""
    filled = {key: value for key, value in asdict(usage).items() if value}
    if filled.keys() <= {"input_tokens", "output_tokens", "cached_tokens"}:
        return [usage.input_tokens, usage.output_tokens, usage.cached_tokens]
    return filled


def decode_usage(raw: Any) -> Usage:
    """Read what `encode_usage` wrote."""
    if not isinstance(raw, Mapping):
        return Usage(*map(int, raw))
    known = {item.name for item in fields(Usage)}
    if unknown := set(raw) - known:
        raise ValueError(f"unknown usage {sorted(unknown)}")
    counts = {key: int(value) for key, value in raw.items() if key != "is_estimated"}
    return Usage(**counts, is_estimated=bool(raw.get("is_estimated")))


def encode_delta(delta: Delta) -> dict[str, Any]:
    """Return a delta as a JSON object without empty fields."""
    out: dict[str, Any] = {"text": delta.text} if delta.text else {}
    if delta.tool_calls:
        out["calls"] = [_encode_call(call) for call in delta.tool_calls]
    if delta.thinking:
        out["thinking"] = list(delta.thinking)
    return out | {key: value for key in _DELTA_KEYS if (value := getattr(delta, key))}


def decode_delta(raw: Mapping[str, Any]) -> Delta:
    """Read what `encode_delta` wrote. Raises `ValueError` if the object is damaged."""
    try:
        calls = (ToolCallDelta(*call) for call in raw.get("calls", ()))
        rest = {key: raw[key] for key in _DELTA_KEYS if key in raw}
        thinking = tuple(raw.get("thinking", ()))
        return Delta(raw.get("text", ""), tuple(calls), thinking=thinking, **rest)
    except _BROKEN as exc:
        raise ValueError(f"not a delta: {exc!r}") from exc


def _encode_call(call: ToolCallDelta) -> list[Any]:
    plain = [call.index, call.id, call.name, call.arguments]
    if call.extra or call.kind != "function":
        return [*plain, call.kind, dict(call.extra)]
    return plain
