"""The OpenAI chat format: requests as bodies, chunks as deltas.

Pure translation, without a client: what goes over the wire, and what is made of
what comes back. Sources: OpenAI's API reference (chat completions, streaming) and
vLLM's documentation of its server's extra parameters (`priority`,
`return_token_ids`, `continue_final_message`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aios_core.core import Progress
from aios_core.cores.streaming import LiveRun
from aios_core.errors import BackendError
from aios_core.messages import (
    Completion,
    Delta,
    FinishReason,
    ResponseFormat,
    Sampling,
    ToolCallDelta,
    Usage,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

Flavor = Literal["openai", "vllm"]

# Upper bounds of what a chat template adds, in tokens: for a message, and for the
# instructions on how to call tools.
_TOKENS_PER_MESSAGE = 16
_TOKENS_FOR_TOOLS = 1_024


def max_prompt_tokens(request: LLMGenerate) -> int:
    """An upper bound of the prompt's tokens: a tokenizer makes at most one of each byte."""
    said = sum(len(_as_json(m.to_dict())) + _TOKENS_PER_MESSAGE for m in request.messages)
    if not request.tools:
        return said
    return said + _TOKENS_FOR_TOOLS + sum(len(_as_json(t.to_dict())) for t in request.tools)


def chat_body(
    request: LLMGenerate, model: str, *, flavor: Flavor, token_limit_key: str, priority: int = 0
) -> dict[str, Any]:
    """The body of a streaming chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [message.to_dict() for message in request.messages],
        **_sampling(request.sampling, token_limit_key),
        **_tools(request),
        **_stream_options(flavor),
    }
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)
    if flavor == "vllm":
        body |= _vllm(priority)
    return body | dict(request.extra)


def resume_body(
    body: Mapping[str, Any], snapshot: Snapshot, token_limit_key: str
) -> dict[str, Any]:
    """The body of a chat that goes on within its last, unfinished turn (vLLM)."""
    turn = {"role": "assistant", "content": snapshot.text}
    return {
        **_less_tokens(body, snapshot, token_limit_key),
        "messages": [*body["messages"], turn],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def resume_ids_body(
    body: Mapping[str, Any], snapshot: Snapshot, token_limit_key: str
) -> dict[str, Any]:
    """The body of a plain completion that goes on after the very tokens of a chat (vLLM).

    Exact where a text prefix is not: text can be cut into other tokens than
    those that the model chose.
    """
    rest = _less_tokens(body, snapshot, token_limit_key)
    if token_limit_key in rest:  # plain completions know the old key only
        rest["max_tokens"] = rest.pop(token_limit_key)
    for key in ("messages", "tools", "tool_choice", "parallel_tool_calls"):
        rest.pop(key, None)
    return {**rest, "prompt": [*snapshot.prompt_ids, *snapshot.output_ids]}


def _less_tokens(body: Mapping[str, Any], snapshot: Snapshot, key: str) -> dict[str, Any]:
    left = dict(body)
    if key in left:
        left[key] = max(1, left[key] - len(snapshot.output_ids))
    return left


def _sampling(sampling: Sampling, token_limit_key: str) -> dict[str, Any]:
    out: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.max_tokens is not None:
        out[token_limit_key] = sampling.max_tokens
    if sampling.top_p < 1.0:
        out["top_p"] = sampling.top_p
    if sampling.top_k is not None:
        out["top_k"] = sampling.top_k
    if sampling.seed is not None:
        out["seed"] = sampling.seed
    if sampling.stop:
        out["stop"] = list(sampling.stop)
    return out


def _tools(request: LLMGenerate) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice: Any = request.tool_choice
    if choice not in {"auto", "none", "required"}:
        choice = {"type": "function", "function": {"name": choice}}
    out = {"tools": [tool.to_dict() for tool in request.tools], "tool_choice": choice}
    if not request.parallel_tool_calls:
        out["parallel_tool_calls"] = False
    return out


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema = {
        "name": wanted.name,
        "schema": dict(wanted.schema),
        "strict": is_strict(wanted.schema),
    }
    return {"type": "json_schema", "json_schema": schema}


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: closed objects, every property required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", ())) != set(properties):
            return False
        if not all(map(is_strict, properties.values())):
            return False
    elif schema.get("type") == "object":
        return False
    return all(is_strict(value) for key, value in schema.items() if key != "properties")


def _stream_options(flavor: Flavor) -> dict[str, Any]:
    options = {"include_usage": True}
    if flavor == "vllm":
        options["continuous_usage_stats"] = True
    return {"stream": True, "stream_options": options}


def _vllm(priority: int) -> dict[str, Any]:
    out: dict[str, Any] = {"return_token_ids": True}
    if priority:  # smaller is more urgent, as in the kernel
        out["priority"] = priority
    return out


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


@dataclass(slots=True)
class ChunkReader:
    """Makes progress and, at last, an answer of a stream's chunks.

    Tokens are counted where the server tells their ids or a running total, and
    are else taken as one a chunk. Tokens whose text the server still holds back
    are reported with the text that shows them, so that what was reported is what
    a snapshot can say.
    """

    live: LiveRun
    model: str
    finish_reason: str | None = None
    usage: Usage | None = None
    num_earlier: int = 0  # tokens of earlier stretches
    _num_counted: int = 0
    _num_held: int = 0
    _held_ids: list[int] = field(default_factory=list)
    _last_index: int = -1

    def __post_init__(self) -> None:
        self.num_earlier = self.live.num_tokens

    @property
    def is_whole(self) -> bool:
        """Whether the server said that the answer is over."""
        return self.finish_reason is not None

    def read(self, chunk: Any) -> Progress | None:
        """Take a chunk in. What it added, if it shows anything.

        Raises `AttributeError`, `TypeError`, `ValueError` or `KeyError` if the
        chunk is not what a chat completion streams.
        """
        self._read_usage(getattr(chunk, "usage", None))
        if ids := getattr(chunk, "prompt_token_ids", None):
            self._keep_prompt(ids)
        deltas = [delta for choice in chunk.choices for delta in self._read_choice(choice)]
        shown = _joined(deltas)
        if not shown and not (self.is_whole and self._num_held):
            return None
        num_tokens, self._num_held = self._num_held, 0
        self.live.output_ids += self._held_ids
        self._held_ids.clear()
        return Progress(self.live.run.id, num_tokens, shown)

    def completion(self) -> Completion:
        """The whole answer. Raises `BackendError` if the provider withheld it."""
        if self.finish_reason == "content_filter":
            raise BackendError(f"{self.model!r}: the provider's content filter stopped the answer")
        live = self.live
        usage = self.usage or Usage(live.run.prepared.num_tokens, self._num_counted)
        usage = Usage(
            len(live.prompt_ids) or usage.input_tokens,
            usage.output_tokens + self.num_earlier,
            usage.cached_tokens,
        )
        return live.answer.completion(self._reason(), usage, self.model)

    def _reason(self) -> FinishReason:
        if self.finish_reason == "length":
            return FinishReason.LENGTH
        # Some servers say "stop" where a tool was asked for by name.
        return FinishReason.TOOL_CALLS if self.live.answer.has_tool_calls else FinishReason.STOP

    def _keep_prompt(self, ids: Iterable[int]) -> None:
        if not self.live.prompt_ids:  # a later stretch's prompt holds the earlier answer, too
            self.live.prompt_ids = tuple(map(int, ids))

    def _read_usage(self, usage: Any) -> None:
        if usage is None:
            return
        details = getattr(usage, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None) or 0
        output = int(usage.completion_tokens)
        self.usage = Usage(int(usage.prompt_tokens), output, int(cached))

    def _read_choice(self, choice: Any) -> Iterable[Delta]:
        """The deltas of a chunk of a chat or of a plain completion."""
        self.finish_reason = choice.finish_reason or self.finish_reason
        if (said := getattr(choice, "delta", None)) is None:
            delta = Delta(_text(choice.text))
        else:
            text = _text(said.content) + _text(getattr(said, "refusal", None))
            parts = getattr(said, "tool_calls", None) or ()
            delta = Delta(text, tuple(self._fragment(part) for part in parts))
        self._count(getattr(choice, "token_ids", None), delta)
        return (delta,)

    def _count(self, ids: list[int] | None, delta: Delta) -> None:
        num_tokens = len(ids) if ids is not None else int(bool(delta))
        self._num_counted += num_tokens
        self._num_held += num_tokens
        self._held_ids += ids or ()

    def _fragment(self, part: Any) -> ToolCallDelta:
        """A piece of a tool call. Servers that omit index or id get them filled in."""
        is_first = bool(part.function and part.function.name)
        index = getattr(part, "index", None)
        if index is None:
            index = self._last_index + is_first
        is_first = is_first and index > self._last_index
        self._last_index = max(self._last_index, int(index))
        return ToolCallDelta(
            index=int(index),
            id=part.id or (f"call_{self.live.run.id}_{index}" if is_first else None),
            name=part.function.name if is_first else None,
            arguments=_text(part.function.arguments if part.function else None),
        )


def _joined(deltas: list[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    calls = (call for delta in deltas for call in delta.tool_calls)
    return Delta("".join(delta.text for delta in deltas), tuple(calls))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.100}")
    return value
