"""The answers of the stub server: scripted behaviors, and a model with one token per word.

Pure functions of a behavior and of the request's body; `aios_core.testing.stub_server`
sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aios_core.cores.deltas import assemble, split_words, to_deltas, to_one_delta
from aios_core.messages import Delta, Message, ToolCall, ToolCallDelta

FIRST_OUTPUT_ID: Final = 1_000  # ids from here on are words of an answer, below are prompts


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and how it ends: streamed if the request asks for that, else whole.

    `then` happens after `after` chunks (None: after all of them): "end" as it
    should, "hang" and send nothing more, "drop" the connection, "garbage" that is
    not JSON, "error" as an event in the stream, or "cut" the stream off politely
    without a finish reason. Of a whole answer nothing is sent before that, an
    "error" is status 500, and one that is "cut" has the chunks until then.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    token_s: float = 0.0  # before each chunk
    has_usage: bool = True
    message: Message | None = None  # the whole answer, in place of text and tool calls
    logprobs: bool = False  # one for each word of the text
    finish_reason: str | None = None  # in place of the one that follows from the answer
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys of the answer
    usage: Mapping[str, Any] = field(default_factory=dict)  # claimed, over what is true
    obeys_limit: bool = True  # the request's `max_tokens`
    tokens_per_chunk: int = 1
    then: Literal["end", "hang", "drop", "garbage", "error", "cut"] = "end"
    after: int | None = None

    @property
    def said(self) -> Message:
        """The assistant's turn."""
        return self.message or Message("assistant", self.text, tool_calls=self.tool_calls)


@dataclass(frozen=True, slots=True)
class Refuse:
    """An HTTP error with OpenAI's error object."""

    status: int
    message: str = "the stub refuses"
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    """Status 200 with these bytes."""

    body: bytes
    content_type: str = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Hang:
    """Take the request and never answer."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Take the request and close the connection."""


def prompt_ids(body: Mapping[str, Any]) -> list[int]:
    if "prompt" in body:
        prompt = body["prompt"]
        return list(range(len(prompt.split()))) if isinstance(prompt, str) else list(prompt)
    if "input" in body:
        said = [body["input"]] if isinstance(body["input"], str) else body["input"]
        texts = [one if isinstance(one, str) else text(one.get("content")) for one in said]
        return list(range(max((len(one.split()) for one in texts), default=0)))
    messages = body["messages"]
    if body.get("continue_final_message"):
        messages = messages[:-1]
    return list(range(sum(len(text(m.get("content")).split()) for m in messages)))


def text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """Return the text of a message; of one with parts, the text parts alone."""
    if content is None or isinstance(content, str):
        return content or ""
    return " ".join(part.get("text", "") for part in content)


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return vectors that encode the lengths of the texts, last text first, with their indexes."""
    size = body.get("dimensions") or 4
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": [float(len(text)), 1.0, *[0.0] * (size - 2)],
        }
        for index, text in enumerate(body["input"])
    ]
    num_tokens = sum(len(text.split()) for text in body["input"])
    return {
        "object": "list",
        "model": body["model"],
        "data": rows[::-1],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def deltas(answer: Answer, body: Mapping[str, Any]) -> list[Delta]:
    """Return the deltas of the answer that are not generated yet and within the limit."""
    said = list(to_deltas(answer.said))[num_said(body) :]
    return said[: limit(body)] if answer.obeys_limit else said


def joined(deltas: Sequence[Delta], num_tokens: int) -> list[Delta]:
    """The deltas, with the texts of so many of them in each."""
    if num_tokens <= 1:
        return list(deltas)
    starts = range(0, len(deltas), num_tokens)
    return [
        to_one_delta(assemble(deltas[start : start + num_tokens]).message()) for start in starts
    ]


def finish_reason(answer: Answer, body: Mapping[str, Any], num_tokens: int) -> str:
    if answer.finish_reason is not None:
        return answer.finish_reason
    if num_tokens + num_said(body) < len(list(to_deltas(answer.said))):
        return "length"
    return "tool_calls" if answer.said.tool_calls else "stop"


def piece(delta: Delta) -> dict[str, Any]:
    """A delta as a server writes it."""
    piece: dict[str, Any] = dict(delta.extra)
    if delta.text:
        piece["content"] = delta.text
    if delta.refusal:
        piece["refusal"] = delta.refusal
    if delta.reasoning:
        piece[delta.reasoning_key] = delta.reasoning
    if delta.thinking:
        piece[delta.thinking_key] = [dict(block) for block in delta.thinking]
    if delta.tool_calls:
        piece["tool_calls"] = [call_piece(call) for call in delta.tool_calls]
    return piece


def call_piece(call: ToolCallDelta) -> dict[str, Any]:
    return {
        **call.extra,
        "index": call.index,
        **({"id": call.id, "type": "function"} if call.id else {}),
        "function": {
            **({"name": call.name} if call.name else {}),
            "arguments": call.arguments,
        },
    }


def logprobs(said: Sequence[str]) -> dict[str, Any]:
    return {"content": [{"token": w, "logprob": -0.5, "top_logprobs": []} for w in said]}


def usage(body: Mapping[str, Any], num_tokens: int) -> dict[str, int]:
    prompt = len(prompt_ids(body))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": num_tokens,
        "total_tokens": prompt + num_tokens,
    }


def num_said(body: Mapping[str, Any]) -> int:
    """Words of the answer that the prompt holds already."""
    if isinstance(body.get("prompt"), list):
        return sum(token >= FIRST_OUTPUT_ID for token in body["prompt"])
    if body.get("continue_final_message"):
        return len(split_words(body["messages"][-1]["content"]))
    return 0


def limit(body: Mapping[str, Any]) -> int | None:
    names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    limit = next((body[name] for name in names if name in body), None)
    return None if limit is None else int(limit)
