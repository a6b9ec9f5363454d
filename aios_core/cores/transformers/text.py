"""Turn tokens into the text and tool calls of an answer, up to its stop strings.

Promises: no delta ends within a character; no delta has text that may turn out to be
the start of a stop string or of a tool call; the deltas joined are the final answer.
The state depends only on the tokens, so a resumed answer restores it by pushing its
tokens again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from aios_core.cores.hermes import ToolCallParser, len_held_back
from aios_core.messages import Delta, Message

_BROKEN: Final = "\ufffd"  # what a decoder writes for bytes that are not a character
_MAX_HELD: Final = 16  # tokens; no character is longer, so the bytes will never become one

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """A decoder of one answer's token ids, one id at a time.

    The text of a token depends on its neighbors, so texts of single tokens cannot be
    joined. Each step decodes a short window with and without the new tokens, and returns
    the difference.
    """

    def __init__(self, decode: Decode, hidden: AbstractSet[int] = frozenset()) -> None:
        self._decode = decode
        self._hidden = hidden  # control tokens, which are not text
        self._seen: list[int] = []  # tokens of the window that are returned as text already
        self._seen_text = ""
        self._fresh: list[int] = []  # tokens of the window that are not

    def push(self, token: int) -> str:
        """Add a token; return the text that is final now, empty within a character."""
        if token in self._hidden:
            return ""
        self._fresh.append(token)
        text = self._decode(self._seen + self._fresh)
        if text.endswith(_BROKEN) and len(self._fresh) < _MAX_HELD:
            return ""
        return self._pass_on(text)

    def finish(self) -> str:
        """Return the rest of the text, without an incomplete character at its end."""
        return self._pass_on(self._decode(self._seen + self._fresh)).rstrip(_BROKEN)

    def _pass_on(self, text: str) -> str:
        new = text[len(self._seen_text) :]
        self._seen, self._fresh = self._fresh, []
        self._seen_text = self._decode(self._seen)
        return new


class StopStrings:
    """A filter that ends a text before the first of several strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.is_hit = False
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> str:
        """Add text; return what can no longer be part of a stop string."""
        if not self._stops:
            return text
        if self.is_hit:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_hit = True
            return self._take(min(found))
        return self._take(len(self._held) - len_held_back(self._held, self._stops))

    def finish(self) -> str:
        """Return the text that was held back for a stop string that did not come."""
        return "" if self.is_hit else self._take(len(self._held))

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text


class Answer:
    """One growing answer: tokens go in, deltas come out, and the message at the end."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], key: str | None) -> None:
        """Start an answer; `key` makes the ids of its tool calls, None if it cannot have any."""
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._parser = None if key is None else ToolCallParser(key)
        self._text: list[str] = []

    @property
    def is_stopped(self) -> bool:
        """True once the text reached a stop string."""
        return self._stops.is_hit

    @property
    def num_tool_calls(self) -> int:
        return len(self._parser.tool_calls) if self._parser else 0

    def push(self, token: int) -> Delta:
        """Add a token; return the part of the answer that is final now."""
        return self._parsed(self._stops.push(self._detokenizer.push(token)))

    def finish(self) -> Delta:
        """End the answer; return the text that was held back."""
        rest = self._stops.push(self._detokenizer.finish()) + self._stops.finish()
        delta = self._parsed(rest)
        if self._parser is None:
            return delta
        last = self._parser.finish()
        self._text.append(last.text)
        return Delta(delta.text + last.text, delta.tool_calls)

    def message(self) -> Message:
        """Return the answer so far."""
        calls = tuple(self._parser.tool_calls) if self._parser else ()
        return Message("assistant", "".join(self._text), calls)

    def _parsed(self, text: str) -> Delta:
        delta = self._parser.push(text) if self._parser and text else Delta(text)
        if delta.text:
            self._text.append(delta.text)
        return delta
