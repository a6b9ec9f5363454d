"""Translate a conversation to the turns of the Messages API.

Pure. The API knows two roles, which alternate. System messages go before the conversation, in
their order. The results of all calls of a turn are in the next user turn, before any other
content. Thinking blocks are returned as they came, since their signatures cover them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.cores.anthropic.blocks import Block, content_blocks, text_block
from aios_core.errors import InvalidRequest
from aios_core.messages import Message, ToolCall

#: Where an answer keeps its blocks, if text, thoughts and calls alone cannot restore them.
BLOCKS_KEY: Final = "anthropic_content"

_SYSTEM_ROLES: Final = ("system", "developer")
_NOT_IN_IDS: Final = re.compile(r"[^a-zA-Z0-9_-]")
_RESULT_KEYS: Final = ("is_error", "cache_control")


@dataclass(slots=True)
class Turns:
    """A conversation as the API takes it."""

    system: list[Block] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def add(self, role: str, blocks: Iterable[Block]) -> None:
        """Add blocks to the last turn if it is of the same role, else as a new turn."""
        blocks = list(blocks)
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})


def turns_of(messages: Sequence[Message]) -> Turns:
    """Return the turns of a conversation. Raises `InvalidRequest` for content without a form."""
    turns = Turns()
    for message in messages:
        if message.role in _SYSTEM_ROLES:
            turns.system += content_blocks(message)
        elif message.role == "assistant":
            turns.add("assistant", _assistant_blocks(message))
        elif message.role == "tool":
            turns.add("user", [_tool_result(message)])
        else:
            turns.add("user", content_blocks(message))
    _order_results(turns.messages)
    _end_without_blanks(turns.messages)
    if not turns.messages:  # the API needs a turn of the user
        turns.add("user", turns.system[-1:])
        del turns.system[-1:]
    return turns


def tool_id(id_: str) -> str:
    """Return the id of a call with characters that the API takes."""
    return _NOT_IN_IDS.sub("_", id_) or "_"


def _tool_result(message: Message) -> Block:
    out: Block = {"type": "tool_result", "tool_use_id": tool_id(message.tool_call_id or "")}
    if message.parts:
        if blocks := content_blocks(message):
            out["content"] = blocks
    elif message.content:
        out["content"] = message.content
    return out | {key: message.extra[key] for key in _RESULT_KEYS if message.extra.get(key)}


def _assistant_blocks(message: Message) -> list[Block]:
    if (kept := _kept_blocks(message)) is not None:
        return kept
    content = content_blocks(message)
    present = {block.get("id") for block in content}
    thoughts = [] if _has_thoughts(content) else list(_signed(message.thinking))
    if not content and message.refusal:
        content = [text_block(message.refusal)]
    calls = [_tool_use(call) for call in message.tool_calls if call.id not in present]
    return [*thoughts, *content, *calls]


def _kept_blocks(message: Message) -> list[Block] | None:
    """Return the blocks of an answer as they came; None if the message was changed since."""
    kept = message.extra.get(BLOCKS_KEY)
    if not isinstance(kept, list) or not all(isinstance(block, Mapping) for block in kept):
        return None
    blocks: list[Block] = [dict(block) for block in kept]
    text = "".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text")
    calls = [b.get("id") for b in blocks if b.get("type") == "tool_use"]
    is_same = text == message.content and calls == [call.id for call in message.tool_calls]
    return blocks if is_same else None


def _has_thoughts(blocks: Iterable[Block]) -> bool:
    return any("thinking" in str(block.get("type")) for block in blocks)


def _signed(thinking: Iterable[Mapping[str, Any]]) -> Iterator[Block]:
    """Yield the thoughts that Claude signed; those of other models cannot be sent."""
    for block in thinking:
        if block.get("type") == "thinking" and block.get("signature"):
            yield {key: block.get(key, "") for key in ("type", "thinking", "signature")}
        elif block.get("type") == "redacted_thinking" and block.get("data"):
            yield {key: block[key] for key in ("type", "data")}


def _tool_use(call: ToolCall) -> Block:
    return {
        "type": "tool_use",
        "id": tool_id(call.id),
        "name": call.name,
        "input": _input(call),
        **{key: call.extra[key] for key in ("caller", "cache_control") if call.extra.get(key)},
    }


def _input(call: ToolCall) -> dict[str, Any]:
    """Return the arguments as an object; what the model wrote otherwise is one of its values."""
    if call.kind != "function":
        return {"input": call.arguments}
    try:
        return call.parsed_arguments()
    except InvalidRequest:
        return {"unparsed": call.arguments}


def _order_results(turns: list[dict[str, Any]]) -> None:
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=lambda block: block.get("type") != "tool_result")


def _end_without_blanks(turns: list[dict[str, Any]]) -> None:
    """Cut blanks at the end of an answer that the model is to continue, as the API wants."""
    if turns and turns[-1]["role"] == "assistant":
        last = turns[-1]["content"][-1]
        if last.get("type") == "text":
            turns[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
