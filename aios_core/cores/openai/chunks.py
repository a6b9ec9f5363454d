"""Translate chunks and whole answers of OpenAI-compatible servers into deltas.

Pure. The format leaves much open, and servers differ; all their variants become the same
deltas here. Keys that the kernel uses have a field, and every other key is kept unchanged.
Sources: OpenAI's API reference (chat completions, streaming), and the documentation of
vLLM, SGLang, Ollama, DeepSeek, Mistral, OpenRouter and LiteLLM on reasoning and tool calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.core import Progress
from aios_core.cores.deltas import DeltaAssembler, join
from aios_core.cores.endpoint.surrogates import SurrogateJoiner, repaired
from aios_core.cores.openai.call_fragments import CallFragments
from aios_core.cores.streaming import LiveRun
from aios_core.messages import Choice, Completion, Delta, FinishReason, Usage, text_of_part
from aios_core.messages.conversation import REASONING_KEYS, THINKING_KEYS
from aios_core.untrusted.reported_numbers import claimed_number

_KNOWN_OF_CHUNK: Final = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    | {"prompt_token_ids", "kv_transfer_params", "prompt_logprobs"}
)
_KNOWN_OF_CHOICE: Final = frozenset(
    {"index", "delta", "message", "text", "finish_reason", "logprobs", "token_ids"}
)
_KNOWN_OF_DELTA: Final = frozenset(
    {"role", "content", "tool_calls", "function_call", "refusal"}
    | {"name", "tool_call_id"}  # the kernel sets these
)

# The names that servers use for finish reasons, in lower case.
_REASONS: Final[Mapping[str, FinishReason]] = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
}


@dataclass(slots=True)
class _ChoiceState:
    """The state of one answer (choice) of a completion."""

    answer: DeltaAssembler
    calls: CallFragments
    finish_reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    text: SurrogateJoiner = field(default_factory=SurrogateJoiner)

    def reason(self) -> FinishReason:
        known = _REASONS.get((self.finish_reason or "").lower())
        if known is not None:
            return known
        # Some servers send "stop" after a tool that was requested by name.
        return FinishReason.TOOL_CALLS if self.answer.has_tool_calls else FinishReason.STOP

    def choice(self) -> Choice:
        return Choice(
            self.answer.message(),
            self.reason(),
            self.answer.logprobs,
            self.finish_reason,
            self.extra,
        )


class ChunkReader:
    """A reader of a stream's chunks: it returns progress, and the whole answer at the end.

    Tokens are counted if the server sends their ids or a running total; otherwise one
    chunk counts as one token. If the server holds text back, its tokens are reported
    together with the text, so that a snapshot contains exactly what was reported.
    """

    def __init__(self, live: LiveRun, model: str) -> None:
        self.model = model
        self.usage: Usage | None = None
        self.is_done = False  # the stream was marked as ended
        self.is_foreign = False  # the body has parts that do not belong to a completion
        self.is_document = False  # the answer is one JSON document
        self._live = live
        self._num_earlier = live.num_tokens  # of earlier runs of the call
        self._choices: dict[int, _ChoiceState] = {}
        self._num_counted = 0
        self._num_held: dict[int, int] = {}  # by answer
        self._held_ids: list[int] = []
        self._id: str | None = None
        self._fingerprint: str | None = None
        self._extra: dict[str, Any] = {}

    @property
    def has_begun(self) -> bool:
        """Whether any answer has started."""
        return bool(self._choices)

    @property
    def is_whole(self) -> bool:
        """Whether the server marked the answer as complete."""
        ended = [state for state in self._choices.values() if state.finish_reason is not None]
        num_wanted = self._live.run.request.sampling.num_choices
        return len(ended) >= num_wanted or (self.is_done and bool(self._choices))

    def read(self, chunk: Any) -> list[Progress]:
        """Read a chunk, or a whole answer; return the progress, if it has any.

        Raises `AttributeError`, `TypeError`, `ValueError` or `KeyError` if it is not part
        of a chat completion.
        """
        if not isinstance(chunk, Mapping):
            raise TypeError(f"an object expected, got {chunk!r:.100}")
        self.is_foreign = self.is_foreign or "choices" not in chunk
        self._read_usage(chunk.get("usage"))
        self._read_envelope(chunk)
        self.is_document = any("message" in c for c in _list(chunk.get("choices")) if c)
        if ids := chunk.get("prompt_token_ids"):
            self._keep_prompt(ids)
        deltas: dict[int, list[Delta]] = {}
        for place, choice in enumerate(_list(chunk.get("choices"))):
            delta = self._read_choice(choice, place)
            deltas.setdefault(delta.choice, []).append(delta)
        return self._progress([join(of_one) for of_one in deltas.values()])

    def _progress(self, deltas: list[Delta]) -> list[Progress]:
        shown = [delta for delta in deltas if delta]
        if not shown:
            if not (self.is_whole and any(self._num_held.values())):
                return []
            shown = [Delta(choice=choice) for choice in self._num_held]
        self._live.output_ids += self._held_ids
        self._held_ids.clear()
        run_id, held = self._live.run.id, self._num_held
        return [Progress(run_id, held.pop(delta.choice, 0), delta) for delta in shown]

    def completion(self) -> Completion:
        """Return the whole answer."""
        first, *others = [self._choices[index].choice() for index in sorted(self._choices)]
        return Completion(
            message=first.message,
            finish_reason=first.finish_reason,
            usage=self._final_usage(),
            model=self.model,
            choices=tuple(others),
            logprobs=first.logprobs,
            backend_finish_reason=first.backend_finish_reason,
            id=self._id,
            fingerprint=self._fingerprint,
            extra=self._extra,
            choice_extra=first.extra,
        )

    def _final_usage(self) -> Usage:
        live = self._live
        if self.usage is None:
            counted = self._num_counted + self._num_earlier
            return Usage(_num_prompt(live), counted, is_estimated=True)
        reported = self.usage
        num_prompt, cached = len(live.prompt_ids) or reported.input_tokens, reported.cached_tokens
        if self._num_earlier and cached > num_prompt:  # a part of the earlier answer was cached
            cached = num_prompt
        return Usage(
            num_prompt,
            reported.output_tokens + self._num_earlier,
            cached,
            reported.cache_write_tokens,
            reported.reasoning_tokens,
            reported.audio_input_tokens,
            reported.audio_output_tokens,
        )

    def _keep_prompt(self, ids: Iterable[int]) -> None:
        if not self._live.prompt_ids:  # the prompt of a resumed run includes the earlier answer
            self._live.prompt_ids = tuple(map(int, ids))

    def _read_usage(self, raw: Any) -> None:
        if isinstance(raw, Mapping) and "completion_tokens" in raw:
            self.usage = read_usage(raw)

    def _read_envelope(self, chunk: Mapping[str, Any]) -> None:
        self._id = self._id or _text(chunk.get("id")) or None
        self._fingerprint = _text(chunk.get("system_fingerprint")) or self._fingerprint
        self._extra.update(_others(chunk, _KNOWN_OF_CHUNK))

    def _read_choice(self, choice: Any, place: int) -> Delta:
        """Read the delta in one choice of a chunk, of a chat or of a plain completion."""
        if not isinstance(choice, Mapping):
            raise TypeError(f"a choice expected, got {choice!r:.100}")
        index = choice.get("index")
        index = index if isinstance(index, int) else place
        state = self._state(index)
        state.finish_reason = _text(choice.get("finish_reason")) or state.finish_reason
        state.extra.update(_others(choice, _KNOWN_OF_CHOICE))
        delta = self._delta(choice, state, index)
        if index:  # `StreamingCore` joins the first one
            state.answer.add(delta)
        self._count(choice.get("token_ids"), delta)
        return delta

    def _state(self, index: int) -> _ChoiceState:
        if index not in self._choices:
            answer = DeltaAssembler() if index else self._live.answer
            calls = CallFragments(f"call_{self._live.run.id}" + (f"_{index}" if index else ""))
            self._choices[index] = _ChoiceState(answer, calls)
        return self._choices[index]

    def _delta(self, choice: Mapping[str, Any], state: _ChoiceState, index: int) -> Delta:
        logprobs = choice.get("logprobs")
        logprobs = logprobs if isinstance(logprobs, Mapping) and any(logprobs.values()) else None
        sent = choice.get("delta")
        sent = choice.get("message") if sent is None else sent
        if sent is None:
            text = state.text.join(_raw_text(choice.get("text")))
            return Delta(text, logprobs=logprobs, choice=index)
        if not isinstance(sent, Mapping):
            raise TypeError(f"a delta expected, got {sent!r:.100}")
        text, blocks = _read_content(sent.get("content"))
        text = state.text.join(text)
        reasoning_key, reasoning = _first(sent, REASONING_KEYS, str)
        thinking_key, thinking = _first(sent, THINKING_KEYS, list)
        told_twice = {key for key in REASONING_KEYS if sent.get(key) == reasoning}
        known = _KNOWN_OF_DELTA | told_twice | {thinking_key}
        return Delta(
            text,
            tuple(state.calls.read(part) for part in _calls_of(sent)),
            reasoning=reasoning or "",
            refusal=_text(sent.get("refusal")),
            thinking=(*_mappings(thinking), *blocks),
            logprobs=logprobs,
            extra=_others(sent, known),
            choice=index,
            reasoning_key=reasoning_key,
            thinking_key=thinking_key,
        )

    def _count(self, ids: Any, delta: Delta) -> None:
        ids = [int(token) for token in ids] if ids is not None else None
        num_tokens = len(ids) if ids is not None else int(bool(delta))
        self._num_counted += num_tokens
        self._num_held[delta.choice] = self._num_held.get(delta.choice, 0) + num_tokens
        if not delta.choice:
            self._held_ids += ids or ()


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Read the usage of an answer, with its details."""
    read = _mapping(raw.get("prompt_tokens_details"))
    written = _mapping(raw.get("completion_tokens_details"))
    return Usage(
        input_tokens=_count_of(raw, "prompt_tokens"),
        output_tokens=_count_of(raw, "completion_tokens"),
        cached_tokens=_count_of(read, "cached_tokens")
        or _count_of(raw, "cache_read_input_tokens")
        or _count_of(raw, "prompt_cache_hit_tokens"),
        cache_write_tokens=_count_of(read, "cache_write_tokens")
        or _count_of(read, "cache_creation_tokens")
        or _count_of(raw, "cache_creation_input_tokens"),
        reasoning_tokens=_count_of(written, "reasoning_tokens"),
        audio_input_tokens=_count_of(read, "audio_tokens"),
        audio_output_tokens=_count_of(written, "audio_tokens"),
    )


def _count_of(raw: Mapping[str, Any], key: str) -> int:
    """Return a reported count unchecked; the kernel checks it later."""
    return claimed_number(raw.get(key))  # type: ignore[no-any-return]


def _num_prompt(live: LiveRun) -> int:
    return len(live.prompt_ids) or live.run.prepared.num_tokens


def _calls_of(sent: Mapping[str, Any]) -> list[Any]:
    """Return the tool calls of a message, including one in the old `function_call`."""
    calls = _list(sent.get("tool_calls"))
    old = sent.get("function_call")
    return calls if calls or not old else [{"index": 0, "function": old}]


def _read_content(content: Any) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """Separate a content into its text and its other blocks."""
    if isinstance(content, list):
        blocks = tuple(_mappings(content))
        text = "".join(part if isinstance(part, str) else "" for part in content)
        return text + "".join(map(text_of_part, blocks)), tuple(
            block for block in blocks if not text_of_part(block) and block.get("type") != "text"
        )
    return _raw_text(content), ()


def _first(sent: Mapping[str, Any], keys: tuple[str, ...], kind: type) -> tuple[str, Any]:
    """Return the first of the keys with a value of a type, and the value."""
    for key in keys:
        if isinstance(sent.get(key), kind) and sent[key]:
            return key, sent[key]
    return "", None


def _others(raw: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    known = frozenset(known)
    return {key: value for key, value in raw.items() if key not in known and value is not None}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"a list expected, got {value!r:.100}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(values: Any) -> Iterator[Mapping[str, Any]]:
    return (value for value in values or () if isinstance(value, Mapping))


def _text(value: Any) -> str:
    return repaired(_raw_text(value))


def _raw_text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.100}")
    return value
