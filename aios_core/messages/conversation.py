"""The turns of a conversation, and the answers of models: messages, tool calls, deltas, usage.

The shapes follow OpenAI's chat format, the one that every framework and server
speaks. A message keeps everything that it was given, whether or not the kernel
knows what it means: `Message.from_dict(raw).to_dict()` returns an equal of `raw`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter, is_
from typing import Any, Final, Literal, cast

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import (
    copy_json,
    copy_mapping,
    copy_mappings,
    reads_arguments,
    require_items,
    short_repr,
)

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: Final = ("system", "developer", "user", "assistant", "tool")

#: Where servers put a model's thoughts, as text and as blocks with signatures.
REASONING_KEYS: Final = ("reasoning_content", "reasoning")
THINKING_KEYS: Final = ("thinking_blocks", "reasoning_details")
_FIELDS: Final = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
_TEXT_TYPES: Final = frozenset({"text", "input_text", "output_text"})


@dataclass(frozen=True, slots=True, repr=False)
class ToolCall:
    """One request of a model to run a tool."""

    id: str
    name: str
    arguments: str  # JSON text, exactly as the model wrote it
    kind: str = field(default="function", kw_only=True)  # "custom": the arguments are any text
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, kw_only=True)  # other keys

    __repr__ = short_repr

    @reads_arguments
    def __post_init__(self) -> None:
        if not all(
            isinstance(text, str) for text in (self.id, self.name, self.arguments, self.kind)
        ):
            raise InvalidRequest(
                f"id, name and arguments of a tool call are texts, got {shown_repr(self)}"
            )
        if self.extra:
            _require_apart("a tool call's extra", self.extra, ("id", "type", self.kind))
            object.__setattr__(self, "extra", copy_mapping("a tool call's extra", self.extra))

    def parsed_arguments(self) -> dict[str, Any]:
        """Parse the arguments. Raises `InvalidRequest` if they are not a JSON object."""
        try:
            value = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(
                f"arguments of {shown_repr(self.name)} are not JSON: {exc}"
            ) from exc
        if not isinstance(value, dict):
            raise InvalidRequest(
                f"arguments of {shown_repr(self.name)} are not a JSON object: {shown_repr(value)}"
            )
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the call in OpenAI's format."""
        content = "input" if self.kind == "custom" else "arguments"
        body = {"name": self.name, content: self.arguments}
        return {"id": self.id, "type": self.kind, self.kind: body, **self.extra}

    @classmethod
    def from_dict(cls, raw: object) -> ToolCall:
        """Read a call in OpenAI's format. Arguments that are an object become their JSON text."""
        if isinstance(raw, ToolCall):
            return raw
        try:
            kind = raw.get("type") or "function"  # type: ignore[attr-defined]
            body = raw[kind]  # type: ignore[index]
            arguments = body["input" if kind == "custom" else "arguments"]
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            rest = {k: v for k, v in raw.items() if k not in ("id", "type", kind)}  # type: ignore[attr-defined]
            id_, name = raw.get("id") or "", body["name"]  # type: ignore[attr-defined]
            return cls(id_, name, arguments, kind=kind, extra=rest)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise InvalidRequest(f"not a tool call in OpenAI's format: {shown_repr(raw)}") from exc


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One turn of a conversation.

    `content` is its text; where the content was a list of parts, `parts` holds
    them unchanged, and `content` is their joined texts. Keys that
    the kernel does not know are kept in `extra`.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()  # assistant only
    tool_call_id: str | None = None  # tool only: the call that this answers
    name: str | None = None
    parts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    reasoning: str = ""  # a model's thoughts, as text
    thinking: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)  # signed blocks of it
    refusal: str | None = None  # why a model does not answer
    # False: the content is null, not "". They differ for a backend, not for a reader.
    has_content: bool = field(default=True, compare=False)
    reasoning_key: str = field(default=REASONING_KEYS[0], compare=False)  # the server's name of it
    thinking_key: str = field(default=THINKING_KEYS[0], compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        role, extra = cast(Any, self.role), cast(Any, self.extra)
        if type(role) is str and type(self.content) is str and role in ROLES:
            rest_is_unset = all(map(is_, _rest_of(self), _UNSET.values()))
            if rest_is_unset and type(extra) is dict and not extra:
                return  # a role and a text, as nearly always: nothing of it runs foreign code
        self._check()

    @reads_arguments
    def _check(self) -> None:
        if not isinstance(self.role, str) or self.role not in ROLES:
            raise InvalidRequest(f"role: got {shown_repr(self.role)}; allowed: {list(ROLES)}")
        if not isinstance(self.content, str):
            raise InvalidRequest(f"content must be text, got {type(self.content).__name__}")
        if self.tool_calls and self.role != "assistant":
            raise InvalidRequest(f"a {shown_repr(self.role)} message cannot call tools")
        for key in ("tool_call_id", "name", "refusal"):
            if not isinstance(value := getattr(self, key), str | None):
                raise InvalidRequest(f"{key} must be text, got {shown_repr(value)}")
        for key in ("reasoning", "reasoning_key", "thinking_key"):
            if not isinstance(value := getattr(self, key), str):
                raise InvalidRequest(f"{key} must be text, got {shown_repr(value)}")
        self._keep_copies()

    def _keep_copies(self) -> None:
        if self.parts:
            parts = tuple(map(_part, require_items("parts", self.parts)))
            object.__setattr__(self, "parts", parts)
            object.__setattr__(self, "content", "".join(map(text_of_part, parts)))
            object.__setattr__(self, "has_content", True)
        if self.content:
            object.__setattr__(self, "has_content", True)
        if self.thinking:
            object.__setattr__(self, "thinking", copy_mappings(self.thinking_key, self.thinking))
        if self.extra:
            _require_apart("a message's extra", self.extra, _FIELDS)
            object.__setattr__(self, "extra", copy_mapping("a message's extra", self.extra))

    @property
    def is_plain(self) -> bool:
        """Whether the message consists of a role and a text only."""
        return not (
            self.tool_calls
            or self.parts
            or self.thinking
            or self.extra
            or self.reasoning
            or self.refusal
            or self.name
            or self.tool_call_id
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the message in OpenAI's chat format."""
        out: dict[str, Any] = {"role": self.role, "content": self._content()}
        if self.tool_calls:
            out["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        for key in ("tool_call_id", "name", "refusal"):
            if (value := getattr(self, key)) is not None:
                out[key] = value
        if self.reasoning:
            out[self.reasoning_key] = self.reasoning
        if self.thinking:
            out[self.thinking_key] = [dict(block) for block in self.thinking]
        return {**out, **self.extra}

    def _content(self) -> str | list[dict[str, Any]] | None:
        if self.parts:
            return [dict(part) for part in self.parts]
        return self.content if self.has_content else None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Message:
        """Read a message in OpenAI's format, with all that it holds. Raises `InvalidRequest`."""
        if not isinstance(raw, Mapping) or "role" not in raw:
            raise InvalidRequest(f"a message needs a 'role' and a 'content', got {shown_repr(raw)}")
        rest = dict(raw)
        content, parts = _read_content(rest.pop("content", None))
        reasoning_key, reasoning = _take(rest, REASONING_KEYS, str)
        thinking_key, thinking = _take(rest, THINKING_KEYS, list)
        return cls(
            role=rest.pop("role"),
            content=content or "",
            tool_calls=tuple(
                map(ToolCall.from_dict, require_items("tool_calls", rest.pop("tool_calls") or ()))
            )
            if "tool_calls" in rest
            else (),
            tool_call_id=rest.pop("tool_call_id", None),
            name=rest.pop("name", None),
            parts=parts,
            reasoning=reasoning or "",
            thinking=tuple(thinking or ()),
            refusal=rest.pop("refusal", None),
            has_content=content is not None,
            reasoning_key=reasoning_key,
            thinking_key=thinking_key,
            extra=rest,
        )


_UNSET: Final = {
    "tool_calls": (),
    "tool_call_id": None,
    "name": None,
    "parts": (),
    "reasoning": "",
    "thinking": (),
    "refusal": None,
    "has_content": True,
    "reasoning_key": REASONING_KEYS[0],
    "thinking_key": THINKING_KEYS[0],
}
_rest_of: Final = attrgetter(*_UNSET)


def _require_apart(what: str, extra: Mapping[str, Any], fields: Sequence[str]) -> None:
    """Refuse keys that would overwrite a field."""
    if isinstance(extra, Mapping) and (twice := [key for key in fields if key in extra]):
        raise InvalidRequest(f"{what}: {twice[0]!r} is a field of its own; set that")


def is_plain_ascii(message: Message) -> bool:
    """Return whether a message is a role and an ASCII text, in exact types, and nothing else."""
    text: Any = message.content
    return type(message) is Message and message.is_plain and type(text) is str and text.isascii()


@reads_arguments
def parse_messages(
    messages: str | Message | Iterable[Message | Mapping[str, Any]],
) -> tuple[Message, ...]:
    """Accept what callers write: a text (one user turn), messages, or OpenAI dictionaries.

    Whether a prompt is complete is for the core to decide.

    Raises:
        InvalidRequest: a message is malformed; names its position.
    """
    if isinstance(messages, str):
        messages = (Message("user", messages),)
    elif isinstance(messages, Message | Mapping):
        messages = (messages,)
    parsed = []
    for position, raw in enumerate(require_items("messages", messages)):
        try:
            parsed.append(raw if isinstance(raw, Message) else Message.from_dict(raw))
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc
    return tuple(parsed)


def text_of_part(part: Mapping[str, Any]) -> str:
    """Return the text of a content part; "" for other parts."""
    text = part.get("text")
    is_text = part.get("type", "text") in _TEXT_TYPES and isinstance(text, str)
    return str(text) if is_text else ""


def kind_of_part(part: Mapping[str, Any]) -> str:
    """Return what a content part is: "text", "image", "audio", "file", or its own type."""
    kind = str(part.get("type", "text"))
    if kind in _TEXT_TYPES:
        return "text"
    return kind.removeprefix("input_").removesuffix("_url")


def _part(raw: object) -> dict[str, Any]:
    if isinstance(raw, str):
        return {"type": "text", "text": raw}
    if not isinstance(raw, Mapping):
        raise InvalidRequest(
            f"a content part is a text or a mapping with a 'type', got {shown_repr(raw)}"
        )
    if raw.get("type", "text") == "text" and not isinstance(raw.get("text"), str):
        raise InvalidRequest(f"a text part needs a 'text', got {shown_repr(raw)}")
    return dict(copy_json("a content part", raw))


def _read_content(content: object) -> tuple[str | None, tuple[Mapping[str, Any], ...]]:
    """The text of a message's content, or its parts; None for null."""
    if content is None or isinstance(content, str):
        return content, ()
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return "", tuple(map(_part, content))
    raise InvalidRequest(f"content must be text or a list of parts, got {shown_repr(content)}")


def _take(rest: dict[str, Any], keys: Sequence[str], kind: type) -> tuple[str, Any]:
    """Remove the first of the keys with a value of that type; the key, and the value."""
    for key in keys:
        if isinstance(rest.get(key), kind) and rest[key]:
            return key, rest.pop(key)
    return keys[0], None


# --- answers of models --------------------------------------------------------------------------


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
    """A streamed fragment of an answer. `choice` is the number of that answer, from 0."""

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
    """One of several answers to a prompt."""

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
        """All answers, including the first one."""
        first = Choice(
            self.message,
            self.finish_reason,
            self.logprobs,
            self.backend_finish_reason,
            self.choice_extra,
        )
        return (first, *self.choices)
