"""Parse tool calls in a model's text: the Hermes format, which Qwen and `tiny` use too.

    <tool_call>{"name": "calculator", "arguments": {"expression": "1 + 1"}}</tool_call>

Text goes in, `Delta` comes out. Promises: text that can still become a tool call is held
back, all other text is returned at once; a call is returned once it is complete and
well-formed, with its arguments exactly as the model wrote them; a malformed call is
returned as plain text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from aios_core.messages import Delta, ToolCall, ToolCallDelta

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"

_DECODER: Final = json.JSONDecoder()


class ToolCallParser:
    """A parser that separates a stream of text into plain text and tool calls.

    The ids of the calls are derived from `key`: equal keys give equal ids, so that a
    resumed answer keeps its ids.
    """

    def __init__(self, key: str = "") -> None:
        self.tool_calls: list[ToolCall] = []
        self._key = key
        self._held = ""  # not returned yet
        self._in_call = False

    def push(self, text: str) -> Delta:
        """Add text; return what is final now."""
        self._held += text
        parts: list[Delta] = []
        while (part := self._next_part()) is not None:
            parts.append(part)
        return merge_deltas(parts)

    def finish(self) -> Delta:
        """End the text; return what was held back. An incomplete call becomes plain text."""
        rest, self._held = self._held, ""
        if self._in_call:
            self._in_call = False
            return Delta(OPEN + rest)
        return Delta("" if self._is_gap(rest) else rest)

    def _next_part(self) -> Delta | None:
        return self._next_call() if self._in_call else self._next_text()

    def _next_text(self) -> Delta | None:
        before, opened, after = self._held.partition(OPEN)
        if opened:
            self._held, self._in_call = after, True
            return Delta("" if self._is_gap(before) else before)
        keep = len_held_back(self._held, (OPEN,))
        ready = self._held[: len(self._held) - keep]
        if not ready or self._is_gap(ready):
            return None
        self._held = self._held[len(ready) :]
        return Delta(ready)

    def _next_call(self) -> Delta | None:
        body, closed, after = self._held.partition(CLOSE)
        if not closed:
            return None
        self._held, self._in_call = after, False
        parsed = parse_call(body)
        if parsed is None:
            return Delta(OPEN + body + CLOSE)
        index = len(self.tool_calls)
        call = ToolCall(call_id(self._key, index), *parsed)
        self.tool_calls.append(call)
        return Delta(tool_calls=(ToolCallDelta(index, call.id, call.name, call.arguments),))

    def _is_gap(self, text: str) -> bool:
        """Return whether a text is white space after a call, which is dropped at the end."""
        return bool(self.tool_calls) and not text.strip()


def parse_call(body: str) -> tuple[str, str] | None:
    """Return name and arguments (JSON as written) of a call; None if `body` is not a call."""
    try:
        members = _members(body)
        name = json.loads(members["name"])
        arguments = members.get("arguments", "{}")
        value = json.loads(arguments)
    except (ValueError, KeyError):
        return None
    if isinstance(value, str):  # some models quote the object
        arguments = value
    elif not isinstance(value, dict):
        return None
    return (name, arguments) if isinstance(name, str) and name else None


def call_id(key: str, index: int) -> str:
    """Return the id of the call at `index` of an answer."""
    return "call_" + hashlib.blake2b(f"{key}/{index}".encode(), digest_size=8).hexdigest()


def len_held_back(text: str, markers: Sequence[str]) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of a marker."""
    longest = max(map(len, markers), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        end = text[len(text) - size :]
        if any(marker.startswith(end) for marker in markers):
            return size
    return 0


def merge_deltas(parts: Sequence[Delta]) -> Delta:
    """Join the text and the calls of several deltas."""
    if len(parts) == 1:
        return parts[0]
    return Delta(
        "".join(part.text for part in parts),
        tuple(call for part in parts for call in part.tool_calls),
    )


def _members(body: str) -> dict[str, str]:
    """Parse the members of a JSON object, with each value as its original text.

    Raises `ValueError` if `body` is not exactly one JSON object.
    """
    at = _skip(body, 0, "{")
    members: dict[str, str] = {}
    while not body.startswith("}", at):
        key, at = _DECODER.raw_decode(body, _blank(body, at))
        start = _blank(body, _skip(body, at, ":"))
        _, at = _DECODER.raw_decode(body, start)
        members[str(key)] = body[start:at]
        at = _blank(body, at)
        if body.startswith(",", at):
            at = _blank(body, at + 1)
            if body.startswith("}", at):
                raise ValueError("a comma without a member")
        elif not body.startswith("}", at):
            raise ValueError("not an object")
    if body[at + 1 :].strip():
        raise ValueError("text after the object")
    return members


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _skip(text: str, at: int, char: str) -> int:
    at = _blank(text, at)
    if not text.startswith(char, at):
        raise ValueError(f"expected {char!r}")
    return _blank(text, at + 1)
