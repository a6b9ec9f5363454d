"""Count tokens without a tokenizer: never too many, or about right.

`at_least` is a bound from below: what stops an answer at its limit may not stop one that kept
it. `TokenRatio` estimates, for accounting where no backend counts. Both are about texts of
people and programs; a text made to fool them is bounded by its bytes.

A tokenizer makes one token or more of each word between blanks, seldom more than 24 bytes
into one, and about one of two characters of Chinese, Japanese or Korean.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aios_core.messages import Delta, Message
from aios_core.syscalls import LLMGenerate

BYTES_PER_TOKEN: Final = 4.0  # of prose and code, before a model has shown its own ratio
_FEW_BYTES_PER_TOKEN: Final = 3.0  # where an estimate must rather be too high
_MOST_BYTES_PER_TOKEN: Final = 24  # on the average of a whole text
_RATIOS: Final = (1.5, 8.0)  # what a model's own ratio can be
_WIDE: Final = 0x2E80  # from here on most characters are whole words or syllables
_TOKENS_PER_MESSAGE: Final = 4  # that a chat template puts around it
_TOKENS_PER_IMAGE: Final = {"low": 85}  # OpenAI's guide to images and vision, by detail
_TOKENS_OF_ANY_IMAGE: Final = 765  # ... of 1,024 by 1,024 pixels

# Fields of a message that repeat its content, or hold something other than text.
_NOT_READ_AS_TEXT: Final = frozenset({"text", "refusal", "image_url", "input_audio", "file"})

_ENOUGH_BYTES: Final = 64  # a shorter text does not give a useful ratio
_FORGET: Final = 0.9  # what a ratio keeps of its past with each further text


def at_least(text: str) -> int:
    """Return the least number of tokens that a text can have; 0 for an empty one."""
    if not text:
        return 0
    if text.isascii():
        return max(1, len(text.split()), len(text) // _MOST_BYTES_PER_TOKEN)
    wide = sum(ord(char) >= _WIDE for char in text)
    return max(1, len(text.split()) + wide // 2, num_bytes(text) // _MOST_BYTES_PER_TOKEN)


def num_bytes(text: str) -> int:
    """Count the bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


class TokenRatio:
    """The bytes of text per token of a model, learned from the usage that it reports."""

    def __init__(self) -> None:
        self._num_bytes = 0.0
        self._num_tokens = 0.0

    def __repr__(self) -> str:
        return f"<TokenRatio: {self.bytes_per_token:.2f} bytes per token>"

    @property
    def bytes_per_token(self) -> float:
        """The ratio as known so far."""
        if self._num_tokens <= 0:
            return BYTES_PER_TOKEN
        least, most = _RATIOS
        return min(max(self._num_bytes / self._num_tokens, least), most)

    @property
    def cautious_bytes_per_token(self) -> float:
        """The ratio; as long as it is unknown, one that most texts exceed."""
        return self.bytes_per_token if self._num_tokens > 0 else _FEW_BYTES_PER_TOKEN

    def learn(self, num_bytes: int, num_tokens: int) -> None:
        """Learn that a text of that many bytes had that many tokens."""
        if num_bytes < _ENOUGH_BYTES or num_tokens <= 0:
            return
        self._num_bytes = self._num_bytes * _FORGET + num_bytes
        self._num_tokens = self._num_tokens * _FORGET + num_tokens

    def learn_prompt(self, request: LLMGenerate, num_tokens: int) -> None:
        """Learn that a prompt had that many tokens."""
        if any(map(image_tokens, request.messages)):  # their share of it is not known
            return
        around = _TOKENS_PER_MESSAGE * len(request.messages)
        self.learn(prompt_bytes(request), num_tokens - around)

    def tokens_in(self, text: str) -> int:
        """Estimate the tokens of a text: one if it can be a single one."""
        least = at_least(text)
        return least if least <= 1 else max(least, self.tokens_of_bytes(num_bytes(text)))

    def tokens_of_bytes(self, num_bytes: int) -> int:
        """Estimate the tokens of a text of that many bytes."""
        return round(num_bytes / self.bytes_per_token)

    def prompt_tokens(self, request: LLMGenerate) -> int:
        """Estimate the tokens of a prompt, with what a chat template adds; at least 1."""
        text = self.tokens_of_bytes(prompt_bytes(request))
        images = sum(map(image_tokens, request.messages))
        return max(1, text + images + _TOKENS_PER_MESSAGE * len(request.messages))

    def start_of(self, text: str, num_tokens: int) -> str:
        """Return the start of a text with about that many tokens, and never more than the bound."""
        if self.tokens_in(text) <= num_tokens:
            return text
        text = text[: _MOST_BYTES_PER_TOKEN * (num_tokens + 1)]  # the rest is too much in any case
        fits = range(len(text))
        end = bisect_right(fits, num_tokens, key=lambda end: self.tokens_in(text[:end]))
        return text[: max(0, end - 1)]


def image_tokens(message: Message) -> int:
    """Estimate the tokens of a message's images."""
    images = [part["image_url"] for part in message.parts if "image_url" in part]
    details = (image.get("detail") if isinstance(image, Mapping) else None for image in images)
    return sum(_TOKENS_PER_IMAGE.get(str(detail), _TOKENS_OF_ANY_IMAGE) for detail in details)


def prompt_bytes(request: LLMGenerate) -> int:
    """Count the bytes of everything that a model reads."""
    said = sum(sum(map(num_bytes, _texts_of(message))) for message in request.messages)
    return said + sum(len(json.dumps(tool.to_dict(), default=str)) for tool in request.tools)


def answer_texts(answer: Delta | Message) -> Iterator[str]:
    """Yield every text that a model generated: content, reasoning, refusals, tool calls."""
    yield answer.text if isinstance(answer, Delta) else answer.content
    yield answer.reasoning or "".join(map(_thought, answer.thinking))
    yield answer.refusal or ""
    for call in answer.tool_calls:
        yield f"{call.name or ''} {call.arguments}".strip()


def _thought(block: Mapping[str, Any]) -> str:
    text = block.get("thinking") or block.get("text")
    return text if isinstance(text, str) else ""


def _texts_of(message: Message) -> Iterator[str]:
    yield from answer_texts(message)
    for part in message.parts:
        if part.get("type") not in _NOT_READ_AS_TEXT:
            yield json.dumps(part, default=str)
