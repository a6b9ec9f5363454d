"""The answers of models: deltas, usage, and whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from aios_core.messages.conversation import Message, ToolCall
from aios_core.untrusted.arguments import short_repr


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"  # it was done, or met a stop string
    LENGTH = "length"  # it reached its token limit
    TOOL_CALLS = "tool_calls"  # it waits for the results of tools
    CONTENT_FILTER = "content_filter"  # the provider withheld the rest


@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """Tokens that one call, or one agent, used. The details are included in the totals."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input: read from a cache
    cache_write_tokens: int = 0  # of the input: written to a cache, which some providers charge
    reasoning_tokens: int = 0  # of the output
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    is_estimated: bool = field(default=False, kw_only=True)  # the backend did not report it

    __repr__ = short_repr

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.audio_input_tokens + other.audio_input_tokens,
            self.audio_output_tokens + other.audio_output_tokens,
            is_estimated=self.is_estimated or other.is_estimated,
        )


NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True, repr=False)
class ToolCallDelta:
    """A fragment of a tool call; fragments of one call share an index.

    The first fragment of a call carries its id and name, the later ones only
    more of the arguments' text.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    kind: str = "function"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Delta:
    """One step of a stream. With several answers, `choice` is the number of its answer."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = ""
    refusal: str = ""
    thinking: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    logprobs: Mapping[str, Any] | None = field(default=None, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # other keys of the delta
    choice: int = 0
    reasoning_key: str = ""  # the server's names of both, where they matter
    thinking_key: str = ""

    __repr__ = short_repr

    def __bool__(self) -> bool:
        return bool(
            self.text
            or self.tool_calls
            or self.reasoning
            or self.refusal
            or self.thinking
            or self.logprobs
            or self.extra
        )


@dataclass(frozen=True, slots=True, repr=False)
class Choice:
    """One answer of several to one prompt."""

    message: Message
    finish_reason: FinishReason
    logprobs: Mapping[str, Any] | None = field(default=None, hash=False)
    backend_finish_reason: str | None = None  # in the backend's own word
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # other keys of the choice

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Completion:
    """The answer to an LLM call. `choices` holds the further answers, if several were wanted."""

    message: Message
    finish_reason: FinishReason
    usage: Usage
    model: str
    choices: tuple[Choice, ...] = ()
    logprobs: Mapping[str, Any] | None = field(default=None, hash=False)
    backend_finish_reason: str | None = None  # in the backend's own word
    id: str | None = None  # the provider's
    fingerprint: str | None = None  # of the provider's system
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # other keys of the answer
    choice_extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the first choice
    length_reason: str | None = None  # which limit cut it: "max_tokens", "window" or "budget"

    __repr__ = short_repr

    @property
    def text(self) -> str:
        return self.message.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls

    @property
    def reasoning(self) -> str:
        return self.message.reasoning

    @property
    def refusal(self) -> str | None:
        return self.message.refusal

    @property
    def all_choices(self) -> tuple[Choice, ...]:
        """Every answer, the first one included."""
        first = Choice(
            self.message,
            self.finish_reason,
            self.logprobs,
            self.backend_finish_reason,
            self.choice_extra,
        )
        return (first, *self.choices)
