"""Translate the events of OpenAI's Responses API into deltas.

Pure. A stream is a sequence of typed events about numbered output items: messages, function
calls, thoughts. A thought is kept as the whole item, with its encrypted content, so that the
next prompt can contain it. Source: OpenAI's API reference (streaming events of responses).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aios_core.core import Progress
from aios_core.cores.endpoint.surrogates import repaired
from aios_core.cores.streaming import LiveRun
from aios_core.messages import Completion, Delta, FinishReason, ToolCallDelta, Usage
from aios_core.untrusted.reported_numbers import claimed_number

_CALLS: Final = {"function_call": "function", "custom_tool_call": "custom"}  # to kinds of calls
_ARGUMENTS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
_REASONS: Final = {
    "max_output_tokens": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class ResponseReader:
    """A reader of a response's events: it returns progress, and the whole answer at the end.

    Each delta counts as one token. Its attributes are those of `chunks.ChunkReader`.
    """

    def __init__(self, live: LiveRun, model: str) -> None:
        self.model = model
        self.is_done = False  # the stream was marked as ended
        self.is_foreign = False  # the body has parts that do not belong to a response
        self.is_document = False  # the answer is one JSON document
        self._live = live
        self._num_earlier = live.num_tokens
        self._num_counted = 0
        self._final: Mapping[str, Any] | None = None  # the response, once it has ended
        self._id: str | None = None
        self._calls: dict[int, int] = {}  # output index -> number of the tool call
        self._with_text: set[int] = set()  # output indexes with streamed text or arguments
        self._num_summaries = 0

    @property
    def has_begun(self) -> bool:
        """Whether the response has started."""
        return self._id is not None

    @property
    def is_whole(self) -> bool:
        """Whether the server marked the answer as complete."""
        return self._final is not None

    def read(self, event: Any) -> list[Progress]:
        """Read an event, or a whole response; return the progress, if it has any.

        Raises `AttributeError`, `TypeError`, `ValueError` or `KeyError` if it is not part
        of a response.
        """
        if not isinstance(event, Mapping):
            raise TypeError(f"an object expected, got {event!r:.100}")
        if event.get("object") == "response":
            return self._read_document(event)
        kind = event.get("type")
        if not isinstance(kind, str):
            self.is_foreign = True
            return []
        deltas = self._read_event(kind, event)
        self._num_counted += len(deltas)
        return [Progress(self._live.run.id, 1, delta) for delta in deltas]

    def completion(self) -> Completion:
        """Return the whole answer."""
        final = self._final or {}
        reason, backends = _finish(final, has_calls=self._live.answer.has_tool_calls)
        return Completion(
            message=self._live.answer.message(),
            finish_reason=reason,
            usage=self._usage(final.get("usage")),
            model=self.model,
            logprobs=self._live.answer.logprobs,
            backend_finish_reason=backends,
            id=self._id,
        )

    # --- events -------------------------------------------------------------------------------

    def _read_document(self, response: Mapping[str, Any]) -> list[Progress]:
        self.is_document = True
        self._end(response)
        deltas = [
            delta
            for index, item in enumerate(_list(response.get("output")))
            for delta in (*self._added(index, item), *self._ended(index, item))
        ]
        self._num_counted += len(deltas)
        return [Progress(self._live.run.id, 1, delta) for delta in deltas]

    def _read_event(self, kind: str, event: Mapping[str, Any]) -> list[Delta]:
        index = event.get("output_index", 0)
        match kind.removeprefix("response."):
            case "created" | "in_progress" | "queued":
                self._begin(event["response"])
            case "completed" | "incomplete":
                self._end(event["response"])
            case "output_item.added":
                return self._added(index, event["item"])
            case "output_item.done":
                return self._ended(index, event["item"])
            case "reasoning_summary_part.added":
                self._num_summaries += 1
                return [Delta(reasoning="\n\n")] if self._num_summaries > 1 else []
            case part if part.endswith(".delta"):
                return self._fragment(part, index, event)
            case _:  # progress of tools at the provider, annotations, ends of parts
                pass
        return []

    def _begin(self, response: Mapping[str, Any]) -> None:
        if not isinstance(response, Mapping):
            raise TypeError(f"a response expected, got {response!r:.100}")
        self._id = self._id or str(response.get("id") or "")

    def _end(self, response: Mapping[str, Any]) -> None:
        self._begin(response)
        self._final, self.is_done = response, True

    def _added(self, index: int, item: Mapping[str, Any]) -> list[Delta]:
        """Start a tool call; other items have nothing to show at their start."""
        if (kind := _CALLS.get(_text(item.get("type")))) is None:
            return []
        number = self._calls[index] = len(self._calls)
        name, id_ = _text(item.get("name")), _text(item.get("call_id"))
        return [Delta(tool_calls=(ToolCallDelta(number, id_, name, "", kind),))]

    def _fragment(self, part: str, index: int, event: Mapping[str, Any]) -> list[Delta]:
        text = _text(event.get("delta"))
        if part.startswith("reasoning"):
            return [Delta(reasoning=text)]
        self._with_text.add(index)
        match part:
            case "output_text.delta":
                logprobs = _list(event.get("logprobs"))
                return [Delta(text, logprobs={"content": logprobs} if logprobs else None)]
            case "refusal.delta":
                return [Delta(refusal=text)]
            case "function_call_arguments.delta" | "custom_tool_call_input.delta":
                return [self._arguments(index, text)]
            case _:  # audio, code of an interpreter at the provider
                return []

    def _ended(self, index: int, item: Mapping[str, Any]) -> list[Delta]:
        """Return what was not streamed of an item: whole thoughts, or all of it."""
        kind = _text(item.get("type"))
        if kind == "reasoning":
            block = {key: value for key, value in item.items() if key != "status"}
            return [Delta(thinking=(block,))]
        if index in self._with_text:
            return []
        if kind in _CALLS:
            if index not in self._calls:
                return [*self._added(index, item), *self._ended(index, item)]
            return [self._arguments(index, _text(item.get(_ARGUMENTS[kind])))]
        if kind == "message":
            return [_whole_part(part) for part in _list(item.get("content"))]
        return []

    def _arguments(self, index: int, text: str) -> Delta:
        return Delta(tool_calls=(ToolCallDelta(self._calls[index], arguments=text),))

    def _usage(self, raw: object) -> Usage:
        if not isinstance(raw, Mapping):
            num_prompt = self._live.run.prepared.num_tokens
            return Usage(num_prompt, self._num_counted + self._num_earlier, is_estimated=True)
        read, written = raw.get("input_tokens_details"), raw.get("output_tokens_details")
        return Usage(
            input_tokens=_count(raw, "input_tokens"),
            output_tokens=_count(raw, "output_tokens"),
            cached_tokens=_count(read, "cached_tokens"),
            reasoning_tokens=_count(written, "reasoning_tokens"),
        )


def _finish(response: Mapping[str, Any], *, has_calls: bool) -> tuple[FinishReason, str]:
    """Return why an answer ended, and the server's own word for it."""
    details = response.get("incomplete_details")
    reason = _text(details.get("reason")) if isinstance(details, Mapping) else ""
    if reason in _REASONS:
        return _REASONS[reason], reason
    own = FinishReason.TOOL_CALLS if has_calls else FinishReason.STOP
    return own, reason or _text(response.get("status"))


def _whole_part(part: Mapping[str, Any]) -> Delta:
    if part.get("type") == "refusal":
        return Delta(refusal=_text(part.get("refusal")))
    logprobs = _list(part.get("logprobs"))
    return Delta(_text(part.get("text")), logprobs={"content": logprobs} if logprobs else None)


def _count(raw: object, key: str) -> int:
    """Return a reported count unchecked; the kernel checks it later."""
    return claimed_number(raw.get(key)) if isinstance(raw, Mapping) else 0


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"a list expected, got {value!r:.100}")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.100}")
    return repaired(value)
