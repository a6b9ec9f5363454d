"""Answers in parts: put deltas together, take answers apart, write both as JSON.

Streams differ in how they cut an answer; everything that passes through a core
is cut and joined here, so that text and tool calls come out as they went in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aios_core.errors import InvalidRequest
from aios_core.messages import (
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCall,
    ToolCallDelta,
    Usage,
)

_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class Assembler:
    """Joins deltas to an answer. Holds what was streamed so far."""

    def __init__(self, text: str = "") -> None:
        self._texts = [text] if text else []
        self._calls: dict[int, _Call] = {}

    def __repr__(self) -> str:
        return f"<Assembler: {len(self.text)} characters, {len(self._calls)} tool calls>"

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls so far; the last one may be incomplete."""
        calls = (self._calls[index] for index in sorted(self._calls))
        return tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)

    @property
    def has_tool_calls(self) -> bool:
        return bool(self._calls)

    def add(self, delta: Delta) -> None:
        """Append what a delta brings."""
        if delta.text:
            self._texts.append(delta.text)
        for part in delta.tool_calls:
            call = self._calls.setdefault(part.index, _Call())
            call.id = call.id or part.id or ""
            call.name = call.name or part.name or ""
            call.arguments += part.arguments

    def message(self) -> Message:
        """The assistant's turn so far."""
        return Message("assistant", self.text, tool_calls=self.tool_calls)

    def completion(self, finish_reason: FinishReason, usage: Usage, model: str) -> Completion:
        """The answer, now that it is whole."""
        return Completion(self.message(), finish_reason, usage, model)


def words(text: str) -> list[str]:
    """Cut a text into words with the space behind them; joined they are the text again."""
    return _WORD.findall(text)


def split(message: Message) -> Iterator[Delta]:
    """An assistant's turn as a stream would bring it: one delta a word.

    A tool call is its id and name first, then its arguments in fragments.
    """
    for word in words(message.content):
        yield Delta(word)
    for index, call in enumerate(message.tool_calls):
        yield Delta(tool_calls=(ToolCallDelta(index, call.id, call.name),))
        for word in words(call.arguments):
            yield Delta(tool_calls=(ToolCallDelta(index, arguments=word),))


def whole(message: Message) -> Delta:
    """An assistant's turn as one delta."""
    calls = (
        ToolCallDelta(index, call.id, call.name, call.arguments)
        for index, call in enumerate(message.tool_calls)
    )
    return Delta(message.content, tuple(calls))


def count_words(message: Message) -> int:
    """How many deltas `split` makes of a turn."""
    calls = sum(1 + len(words(call.arguments)) for call in message.tool_calls)
    return len(words(message.content)) + calls


def encode_completion(completion: Completion) -> dict[str, Any]:
    """An answer as a JSON object."""
    usage = completion.usage
    return {
        "message": completion.message.to_dict(),
        "finish_reason": completion.finish_reason.value,
        "usage": [usage.input_tokens, usage.output_tokens, usage.cached_tokens],
        "model": completion.model,
    }


def decode_completion(raw: Mapping[str, Any]) -> Completion:
    """The opposite of `encode_completion`. Raises `ValueError` if the object is damaged."""
    try:
        return Completion(
            message=Message.from_dict(raw["message"]),
            finish_reason=FinishReason(raw["finish_reason"]),
            usage=Usage(*map(int, raw["usage"])),
            model=str(raw["model"]),
        )
    except (KeyError, TypeError, ValueError, InvalidRequest) as exc:
        raise ValueError(f"not an answer: {exc!r}") from exc


def encode_delta(delta: Delta) -> dict[str, Any]:
    """A delta as a JSON object without empty fields."""
    out: dict[str, Any] = {"text": delta.text} if delta.text else {}
    if delta.tool_calls:
        out["calls"] = [[c.index, c.id, c.name, c.arguments] for c in delta.tool_calls]
    return out


def decode_delta(raw: Mapping[str, Any]) -> Delta:
    """The opposite of `encode_delta`. Raises `ValueError` if the object is damaged."""
    try:
        calls = (ToolCallDelta(*call) for call in raw.get("calls", ()))
        return Delta(raw.get("text", ""), tuple(calls))
    except (AttributeError, TypeError) as exc:
        raise ValueError(f"not a delta: {exc!r}") from exc


def assemble(deltas: Iterable[Delta]) -> Assembler:
    """Join deltas."""
    answer = Assembler()
    for delta in deltas:
        answer.add(delta)
    return answer
