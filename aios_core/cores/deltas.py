"""Join deltas to answers, and split answers into deltas.

All cores split and join answers with these functions, so that every part of an answer
survives: text, tool calls, reasoning, refusals, log probabilities, and keys that are
specific to a backend. `aios_core.cores.answer_format` writes both as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aios_core.cores.delta_merging import merge_blocks, merge_keys, merge_logprobs
from aios_core.messages import (
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from aios_core.messages.conversation import REASONING_KEYS, THINKING_KEYS

_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    kind: str = "function"
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, part: ToolCallDelta) -> None:
        self.id = self.id or part.id or ""
        self.name = self.name or part.name or ""
        self.arguments.append(part.arguments)
        self.kind = part.kind if self.kind == "function" else self.kind
        if part.extra:
            self.extra = merge_keys(self.extra, part.extra)

    def call(self) -> ToolCall:
        return ToolCall(
            self.id, self.name, "".join(self.arguments), kind=self.kind, extra=self.extra
        )


class DeltaAssembler:
    """An answer under construction: the deltas streamed so far, joined."""

    def __init__(self, text: str = "") -> None:
        self.logprobs: dict[str, Any] | None = None
        self._texts = [text] if text else []
        self._calls: dict[int, _Call] = {}
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._thinking: list[dict[str, Any]] = []
        self._extra: dict[str, Any] = {}
        self._reasoning_key = self._thinking_key = ""

    def __repr__(self) -> str:
        return f"<DeltaAssembler: {len(self.text)} characters, {len(self._calls)} tool calls>"

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls so far; the last one may be incomplete."""
        return tuple(self._calls[index].call() for index in sorted(self._calls))

    @property
    def has_tool_calls(self) -> bool:
        return bool(self._calls)

    @property
    def is_text_only(self) -> bool:
        """Whether the answer consists of text alone."""
        return not (
            self._calls
            or self._reasoning
            or self._refusal
            or self._thinking
            or self._extra
            or self.logprobs
        )

    def add(self, delta: Delta) -> None:
        """Append a delta."""
        if delta.text:
            self._texts.append(delta.text)
        for part in delta.tool_calls:
            self._calls.setdefault(part.index, _Call()).add(part)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        if delta.thinking:
            merge_blocks(self._thinking, delta.thinking)
        if delta.logprobs:
            self.logprobs = merge_logprobs(self.logprobs, delta.logprobs)
        if delta.extra:
            self._extra = merge_keys(self._extra, delta.extra)
        self._reasoning_key = delta.reasoning_key or self._reasoning_key
        self._thinking_key = delta.thinking_key or self._thinking_key

    def message(self) -> Message:
        """Return the assistant message so far."""
        refusal = "".join(self._refusal) or None
        text = self.text
        return Message(
            "assistant",
            text,
            tool_calls=self.tool_calls,
            reasoning="".join(self._reasoning),
            refusal=refusal,
            thinking=tuple(self._thinking),
            has_content=bool(text or not (self._calls or refusal or self._extra)),
            reasoning_key=self._reasoning_key or REASONING_KEYS[0],
            thinking_key=self._thinking_key or THINKING_KEYS[0],
            extra=self._extra,
        )

    def completion(self, finish_reason: FinishReason, usage: Usage, model: str) -> Completion:
        """Return the finished answer."""
        return Completion(self.message(), finish_reason, usage, model, logprobs=self.logprobs)


def split_words(text: str) -> list[str]:
    """Cut a text into words with their trailing space; joined, they are the text again."""
    return _WORD.findall(text)


def to_deltas(message: Message) -> Iterator[Delta]:
    """Yield an assistant message as a stream would: one delta for each word.

    Reasoning comes first, then text, refusal and tool calls. A tool call is a delta with
    its id and name, then its arguments in fragments. Extra keys come last.
    """
    for word in split_words(message.reasoning):
        yield Delta(reasoning=word, reasoning_key=message.reasoning_key)
    for block in message.thinking:
        yield Delta(thinking=(block,), thinking_key=message.thinking_key)
    for word in split_words(message.content):
        yield Delta(word)
    for word in split_words(message.refusal or ""):
        yield Delta(refusal=word)
    for index, call in enumerate(message.tool_calls):
        yield Delta(
            tool_calls=(ToolCallDelta(index, call.id, call.name, "", call.kind, call.extra),)
        )
        for word in split_words(call.arguments):
            yield Delta(tool_calls=(ToolCallDelta(index, arguments=word),))
    if message.extra:
        yield Delta(extra=message.extra)


def to_one_delta(message: Message, logprobs: Mapping[str, Any] | None = None) -> Delta:
    """Return an assistant message as one delta."""
    calls = (
        ToolCallDelta(index, call.id, call.name, call.arguments, call.kind, call.extra)
        for index, call in enumerate(message.tool_calls)
    )
    return Delta(
        message.content,
        tuple(calls),
        reasoning=message.reasoning,
        refusal=message.refusal or "",
        thinking=message.thinking,
        logprobs=logprobs,
        extra=message.extra,
        reasoning_key=message.reasoning_key if message.reasoning else "",
        thinking_key=message.thinking_key if message.thinking else "",
    )


def count_deltas(message: Message) -> int:
    """Return how many deltas `to_deltas` makes of a message."""
    return sum(1 for _ in to_deltas(message))


def join(deltas: Iterable[Delta]) -> Delta:
    """Join several deltas of one answer to one delta."""
    deltas = list(deltas)
    if len(deltas) == 1:
        return deltas[0]
    thinking: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    logprobs: dict[str, Any] | None = None
    for delta in deltas:
        merge_blocks(thinking, delta.thinking)
        extra = merge_keys(extra, delta.extra) if delta.extra else extra
        logprobs = merge_logprobs(logprobs, delta.logprobs) if delta.logprobs else logprobs
    return Delta(
        text="".join(delta.text for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
        reasoning="".join(delta.reasoning for delta in deltas),
        refusal="".join(delta.refusal for delta in deltas),
        thinking=tuple(thinking),
        logprobs=logprobs,
        extra=extra,
        choice=deltas[0].choice if deltas else 0,
        reasoning_key=next((d.reasoning_key for d in deltas if d.reasoning_key), ""),
        thinking_key=next((d.thinking_key for d in deltas if d.thinking_key), ""),
    )


def assemble(deltas: Iterable[Delta]) -> DeltaAssembler:
    """Join deltas to an answer under construction."""
    answer = DeltaAssembler()
    for delta in deltas:
        answer.add(delta)
    return answer


def messages_of(deltas: Iterable[Delta]) -> list[Message]:
    """Join the deltas of one or several choices; return their messages in order, at least one."""
    by_choice: dict[int, list[Delta]] = {0: []}
    for delta in deltas:
        by_choice.setdefault(delta.choice, []).append(delta)
    return [assemble(by_choice[choice]).message() for choice in sorted(by_choice)]
