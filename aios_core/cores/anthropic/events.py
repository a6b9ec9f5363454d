"""Translate the events of an answer of the Messages API to deltas.

Pure. An answer is a list of content blocks, each of which starts, grows and stops. Text, thoughts
and tool calls become the kernel's own; if these three cannot restore the order and the content of
all blocks, the blocks themselves are kept as well (`BLOCKS_KEY`), to be returned unchanged in the
next call. Events and blocks of unknown types are ignored, as the API's versioning policy asks.
Source: Anthropic's API reference (Messages, streaming, extended thinking).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aios_core.core import Progress
from aios_core.cores.anthropic.open_block import OpenBlock, piece_of
from aios_core.cores.anthropic.turns import BLOCKS_KEY
from aios_core.cores.streaming import LiveRun
from aios_core.messages import Completion, Delta, FinishReason, Usage
from aios_core.token_estimate import answer_texts, at_least
from aios_core.untrusted.reported_numbers import claimed_number

_REASONS: Final[Mapping[str, FinishReason]] = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}
_KNOWN_OF_MESSAGE: Final = frozenset({"id", "type", "role", "content", "stop_reason"})


class MessageReader:
    """A reader of one answer's events: it returns progress, and the whole answer at the end.

    Args:
        live: the run.
        model: the kernel's name of the model.
        answer_tool: the tool with arguments that are the answer itself, if there is one.
    """

    def __init__(self, live: LiveRun, model: str, answer_tool: str | None = None) -> None:
        self.is_done = False  # the stream was marked as ended
        self.is_foreign = False  # the body has parts that do not belong to an answer
        self.is_document = False  # the answer is one JSON document
        self._live = live
        self._model = model
        self.answer_tool = answer_tool
        self._blocks: dict[int, OpenBlock] = {}
        self._num_calls = 0
        self._num_tokens = 0  # as counted here, if the endpoint reports no usage
        self._facts: dict[str, Any] = {}  # of the message, without its content
        self._usage: dict[str, Any] = {}

    @property
    def has_begun(self) -> bool:
        """Whether any part of the answer has come."""
        return bool(self._facts or self._blocks)

    @property
    def is_whole(self) -> bool:
        """Whether the server marked the answer as complete."""
        return self._facts.get("stop_reason") is not None

    def read(self, chunk: Any) -> list[Progress]:
        """Read an event, or a whole message; return the progress, if it has any.

        Raises `AttributeError`, `TypeError`, `ValueError` or `KeyError` if it is malformed.
        """
        if not isinstance(chunk, Mapping):
            raise TypeError(f"an object expected, got {chunk!r:.100}")
        self.is_foreign = self.is_foreign or "type" not in chunk
        return [self._progress(delta) for delta in self._deltas(chunk) if delta]

    def completion(self) -> Completion:
        """Return the whole answer."""
        reason = self._facts.get("stop_reason")
        answer = self._live.answer
        calls = FinishReason.TOOL_CALLS if answer.has_tool_calls else FinishReason.STOP
        return Completion(
            message=answer.message(),
            finish_reason=_REASONS.get(str(reason), calls),
            usage=self._final_usage(),
            model=self._model,
            backend_finish_reason=reason,
            id=self._facts.get("id"),
            extra=self._extra(),
        )

    # --- events -------------------------------------------------------------------------------

    def _deltas(self, event: Mapping[str, Any]) -> Iterator[Delta]:
        match event.get("type"):
            case "message_start":
                self._read_message(event["message"])
            case "content_block_start":
                yield from self._start(_index(event), event["content_block"])
            case "content_block_delta":
                block = self._blocks.get(_index(event))
                if block is not None:
                    yield block.grow(event["delta"])
            case "content_block_stop":
                if (block := self._blocks.get(_index(event))) is not None:
                    yield block.stop()
            case "message_delta":
                yield from self._read_end(event)
            case "message_stop":
                self.is_done = True
            case "message":
                yield from self._read_document(event)
            case _:
                pass  # a ping, or a type of the future

    def _start(self, index: int, content: Mapping[str, Any]) -> Iterator[Delta]:
        is_call = content.get("type") == "tool_use"
        is_answer = is_call and content.get("name") == self.answer_tool
        number = self._num_calls if is_call and not is_answer else None
        self._num_calls += number is not None
        block = self._blocks[index] = OpenBlock(index, number, content, is_answer=is_answer)
        yield block.start()

    def _read_end(self, event: Mapping[str, Any]) -> Iterator[Delta]:
        self._read_usage(event.get("usage"))
        for key, value in event["delta"].items():
            if value is not None:
                self._facts[key] = value
        if self.is_whole:
            yield from self._last_deltas()

    def _last_deltas(self) -> Iterator[Delta]:
        """Yield the blocks if they have to be kept."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        if not _is_canonical([block.kind for block in blocks]) or any(b.is_cited for b in blocks):
            yield Delta(extra={BLOCKS_KEY: [block.whole() for block in blocks]})

    def _read_document(self, message: Mapping[str, Any]) -> Iterator[Delta]:
        """Read a whole message, which an endpoint sent in place of a stream."""
        self.is_document = True
        self._read_message(message)
        for index, content in enumerate(message["content"]):
            empty, piece = piece_of(content)
            yield from self._start(index, empty)
            if piece:
                yield self._blocks[index].grow(piece)
            yield self._blocks[index].stop()
        if self.is_whole:
            yield from self._last_deltas()

    def _read_message(self, message: Mapping[str, Any]) -> None:
        self._read_usage(message.get("usage"))
        known = {key: value for key, value in message.items() if value is not None}
        self._facts |= {key: value for key, value in known.items() if key != "usage"}

    def _read_usage(self, raw: Any) -> None:
        """Keep the latest counts: those at the end are totals, and may leave out some."""
        if isinstance(raw, Mapping):
            self._usage |= {key: value for key, value in raw.items() if value is not None}

    def _progress(self, delta: Delta) -> Progress:
        texts = [text for text in answer_texts(delta) if text]
        num_tokens = max(1, sum(map(at_least, texts))) if texts else 0
        self._num_tokens += num_tokens
        return Progress(self._live.run.id, num_tokens, delta)

    # --- the whole answer ---------------------------------------------------------------------

    def _final_usage(self) -> Usage:
        if "output_tokens" not in self._usage:
            counted = self._num_tokens
            return Usage(self._live.run.prepared.num_tokens, counted, is_estimated=True)
        return read_usage(self._usage)

    def _extra(self) -> dict[str, Any]:
        others = {k: v for k, v in self._facts.items() if k not in _KNOWN_OF_MESSAGE}
        return others | ({"usage": self._usage} if self._usage else {})


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Read the usage of an answer. The API counts cached tokens apart from the other input."""
    read, written = (
        _count(raw, "cache_read_input_tokens"),
        _count(raw, "cache_creation_input_tokens"),
    )
    details = raw.get("output_tokens_details")
    thoughts = _count(details, "thinking_tokens") if isinstance(details, Mapping) else 0
    return Usage(
        input_tokens=_count(raw, "input_tokens") + read + written,
        output_tokens=_count(raw, "output_tokens"),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thoughts,
    )


def _count(raw: Mapping[str, Any], key: str) -> int:
    """Return a reported count unchecked; the kernel checks it later."""
    return claimed_number(raw.get(key))  # type: ignore[no-any-return]


def _index(event: Mapping[str, Any]) -> int:
    index = event["index"]
    if not isinstance(index, int):
        raise TypeError(f"an index expected, got {index!r:.100}")
    return index


def _is_canonical(kinds: list[str]) -> bool:
    """Return whether blocks are thoughts, then at most one text, then calls."""
    order = {"thinking": 0, "redacted_thinking": 0, "text": 1, "tool_use": 2}
    places = [order.get(kind, -1) for kind in kinds]
    return -1 not in places and places == sorted(places) and places.count(1) <= 1
