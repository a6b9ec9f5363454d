"""Text and token ids without a tokenizer or a model, for the simulated core.

A token is four bytes of UTF-8, so that text and ids convert at the speed of a
copy, and a conversation that is continued has the ids of its first part as its
prefix, as with a real chat template. An answer is a stretch of one fixed stream
of four-letter words; where it begins depends on the prompt and the seed alone.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zlib import crc32

from aios_core.messages import FinishReason, Message

_WIDTH: Final = 4  # bytes of a token
_PERIOD: Final = 4093  # words in the stream; a prime, so that equal steps meet different words


def _words() -> str:
    rng = random.Random(20240325)
    return "".join(
        rng.choice("bdfgklmnprst") + rng.choice("aeiou") + rng.choice("bdfgklmnprst") + " "
        for _ in range(_PERIOD)
    )


_STREAM: Final = _words()


def encode(text: str) -> tuple[int, ...]:
    """The token ids of a text, padded to whole tokens."""
    raw = text.encode()
    return tuple(memoryview(raw + b"\0" * (-len(raw) % _WIDTH)).cast("I"))


def encode_prompt(messages: Iterable[Message]) -> tuple[int, ...]:
    """The token ids of a conversation, up to where the assistant begins to speak."""
    ids: list[int] = []
    for message in messages:
        ids += encode(message.role[:_WIDTH])
        ids += encode(message.content)
        for call in message.tool_calls:
            ids += encode(f"{call.name}({call.arguments})")
    ids += encode("assi")
    return tuple(ids)


def fake_prompt_ids(num_tokens: int, messages: Iterable[Message]) -> tuple[int, ...]:
    """Return the wanted number of token ids, which depend on the text of the messages."""
    start = crc32("\0".join(message.content for message in messages).encode()) % _PERIOD
    return _stream_ids(start + num_tokens)[start : start + num_tokens]


def _stream_ids(at_least: int) -> tuple[int, ...]:
    """The ids of the stream, repeated; a prompt of many tokens is then only a copy."""
    return _repeated_ids(-(-at_least // _PERIOD))


@lru_cache(maxsize=8)
def _repeated_ids(num_periods: int) -> tuple[int, ...]:
    return encode(_STREAM) * num_periods


def _stretch(start: int, num_tokens: int) -> str:
    start %= _PERIOD
    repeated = _STREAM * ((start + num_tokens) // _PERIOD + 1)
    return repeated[_WIDTH * start : _WIDTH * (start + num_tokens)]


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer of a simulated call."""

    text: str
    num_tokens: int
    finish_reason: FinishReason

    @classmethod
    def write(cls, key: int, num_tokens: int, max_tokens: int, stop: Iterable[str] = ()) -> Answer:
        """`num_tokens` long, unless the limit or a stop string ends it before."""
        reason = FinishReason.STOP if num_tokens <= max_tokens else FinishReason.LENGTH
        num_tokens = min(num_tokens, max_tokens)
        text = _stretch(key, num_tokens)
        found = [(at, len(word)) for word in stop if (at := text.find(word)) >= 0]
        if not found:
            return cls(text, num_tokens, reason)
        ends_at = min(at for at, _ in found)
        seen = min(at + size for at, size in found if at == ends_at)
        return cls(text[:ends_at], -(-seen // _WIDTH), FinishReason.STOP)

    def between(self, first: int, last: int) -> str:
        """The text of some of its tokens."""
        return self.text[_WIDTH * first : _WIDTH * last]

    def ids(self, num_tokens: int) -> tuple[int, ...]:
        """The ids of its first tokens."""
        return encode(self.between(0, num_tokens))


def answer_key(prompt_ids: tuple[int, ...], seed: int | None) -> int:
    """Where in the stream an answer begins; `seed` is None for a greedy one."""
    return crc32(repr(seed).encode(), crc32(array("I", prompt_ids).tobytes()))
