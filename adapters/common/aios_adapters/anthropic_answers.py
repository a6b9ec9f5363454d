"""Write the kernel's answers in the format of Anthropic's Messages API: whole, or as events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aios_adapters.anthropic_format import BLOCKS_KEY
from aios_core.errors import InvalidRequest
from aios_core.messages import Completion, Delta, FinishReason, Message, ToolCallDelta, Usage

Event = dict[str, Any]
Block = dict[str, Any]

_REASONS: Final[Mapping[FinishReason, str]] = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}
#: The API's own reasons, by the kernel's.
_OWN: Final[Mapping[FinishReason, frozenset[str]]] = {
    FinishReason.STOP: frozenset({"end_turn", "stop_sequence", "pause_turn"}),
    FinishReason.LENGTH: frozenset({"max_tokens", "model_context_window_exceeded"}),
    FinishReason.TOOL_CALLS: frozenset({"tool_use"}),
    FinishReason.CONTENT_FILTER: frozenset({"refusal"}),
}
_KEPT: Final = ("stop_sequence", "stop_details", "container")


def write_message(completion: Completion) -> dict[str, Any]:
    """Return a whole answer as a message."""
    return {
        **_head(completion.extra.get("model") or completion.model, completion.id),
        "content": _blocks(completion.message),
        **_end(completion),
        "usage": _usage(completion),
    }


def _head(model: str, id_: str | None) -> dict[str, Any]:
    return {"id": id_ or "msg_aios", "type": "message", "role": "assistant", "model": model}


def _end(completion: Completion) -> dict[str, Any]:
    reason = completion.backend_finish_reason
    if reason not in _OWN[completion.finish_reason]:  # another provider's, or a limit of the kernel
        reason = _REASONS[completion.finish_reason]
    kept = {key: completion.extra[key] for key in _KEPT if key in completion.extra}
    return {"stop_reason": reason, "stop_sequence": None, **kept}


def _usage(completion: Completion) -> dict[str, Any]:
    reported = completion.extra.get("usage")
    ours = _counts(completion.usage)
    return {**(reported if isinstance(reported, Mapping) else {}), **ours}


def _counts(usage: Usage) -> dict[str, Any]:
    read, written = usage.cached_tokens, usage.cache_write_tokens
    out: dict[str, Any] = {
        "input_tokens": usage.input_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        out["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return out


def _blocks(message: Message) -> list[Block]:
    if isinstance(kept := message.extra.get(BLOCKS_KEY), list):
        return [dict(block) for block in kept]
    thoughts = [_thought(block) for block in message.thinking]
    if message.reasoning and not thoughts:
        thoughts = [{"type": "thinking", "thinking": message.reasoning, "signature": ""}]
    text = message.content or message.refusal or ""
    texts: list[Block] = [{"type": "text", "text": text}] if text else []
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}
        | {key: value for key, value in call.extra.items() if key == "caller"}
        for call in message.tool_calls
    ]
    return [*thoughts, *texts, *calls]


def _thought(block: Mapping[str, Any]) -> Block:
    out = {key: value for key, value in block.items() if key != "index"}
    return out if "data" in out else {"thinking": "", "signature": "", **out}


def _arguments(call: Any) -> dict[str, Any]:
    try:
        return dict(call.parsed_arguments())
    except InvalidRequest:
        return {"unparsed": call.arguments}


class MessageEventWriter:
    """Writes the deltas of one answer as the events of a stream. `model` is the requested one."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._num_blocks = 0
        self._open: object = None  # what the current block holds
        self._calls: dict[int, int] = {}  # the block of each call
        self._written: set[int] = set()  # the calls that have arguments

    def begin(self) -> Iterator[Event]:
        """Yield the events before the first delta."""
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {**_head(self._model, None), "content": [], "usage": usage}
        message |= {"stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": message}

    def delta(self, delta: Delta) -> Iterator[Event]:
        """Yield the events of one delta."""
        for block in delta.thinking:
            yield from self._thinking(block)
        if delta.reasoning and not delta.thinking:
            yield from self._thinking({"index": "reasoning", "thinking": delta.reasoning})
        if text := delta.text or delta.refusal:
            yield from self._turn_to("text", {"type": "text", "text": ""})
            yield self._piece({"type": "text_delta", "text": text})
        for part in delta.tool_calls:
            yield from self._call(part)

    def end(self, completion: Completion) -> Iterator[Event]:
        """Yield the last events: blocks without deltas, the stop reason and the usage."""
        for block in _foreign(completion.message):
            yield from self._turn_to(object(), block)
        yield from self._close()
        yield {
            "type": "message_delta",
            "delta": _end(completion),
            "usage": _usage(completion),
        }
        yield {"type": "message_stop"}

    def _thinking(self, block: Mapping[str, Any]) -> Iterator[Event]:
        if "data" in block:
            yield from self._turn_to(object(), dict(block))
            return
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        yield from self._turn_to(("thinking", block.get("index")), empty)
        if thinking := block.get("thinking"):
            yield self._piece({"type": "thinking_delta", "thinking": thinking})
        if signature := block.get("signature"):
            yield self._piece({"type": "signature_delta", "signature": signature})

    def _call(self, part: ToolCallDelta) -> Iterator[Event]:
        if part.index not in self._calls:
            start = {"type": "tool_use", "id": part.id or "", "name": part.name or "", "input": {}}
            yield from self._turn_to(("call", part.index), start)
            self._calls[part.index] = self._num_blocks - 1
        # A block starts with empty arguments.
        is_empty = part.index not in self._written and part.arguments == "{}"
        if part.arguments:
            self._written.add(part.index)
            text = "" if is_empty else part.arguments
            piece = {"type": "input_json_delta", "partial_json": text}
            yield self._piece(piece, self._calls[part.index])

    def _turn_to(self, key: object, start: Block) -> Iterator[Event]:
        """Yield the events that end the current block and start the next, if it is another."""
        if key == self._open:
            return
        yield from self._close()
        index, self._open = self._num_blocks, key
        self._num_blocks += 1
        yield {"type": "content_block_start", "index": index, "content_block": start}

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._num_blocks - 1}
            self._open = None

    def _piece(self, piece: dict[str, Any], index: int | None = None) -> Event:
        at = self._num_blocks - 1 if index is None else index
        return {"type": "content_block_delta", "index": at, "delta": piece}


def _foreign(message: Message) -> list[Block]:
    """Return the blocks of an answer that no delta carries."""
    kept = message.extra.get(BLOCKS_KEY)
    known = ("thinking", "redacted_thinking", "text", "tool_use")
    blocks = kept if isinstance(kept, list) else []
    return [dict(block) for block in blocks if block.get("type") not in known]


def as_event(event: Event) -> bytes:
    """Return an event as the bytes of a stream."""
    data = json.dumps(event, ensure_ascii=False)
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
