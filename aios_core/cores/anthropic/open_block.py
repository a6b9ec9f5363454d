"""One content block of an answer while it grows, and the deltas that it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aios_core.cores.endpoint.surrogates import SurrogateJoiner
from aios_core.messages import Delta, ToolCallDelta
from aios_core.messages.conversation import REASONING_KEYS, THINKING_KEYS

_PIECES: Final[Mapping[str, str]] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
_CALL_KEYS: Final = frozenset({"type", "id", "name", "input"})


class OpenBlock:
    """A content block that has started.

    Args:
        index: its place in the answer.
        number: of the tool call that it is, from 0; None if it is none.
        content: as it started.
        is_answer: whether the arguments of this call are the text of the answer.
    """

    def __init__(
        self,
        index: int,
        number: int | None,
        content: Mapping[str, Any],
        *,
        is_answer: bool = False,
    ) -> None:
        self.kind = "text" if is_answer else str(content["type"])
        self._index = index
        self._number = number
        self._content = dict(content)
        self._is_answer = is_answer
        self._texts: dict[str, list[str]] = {}  # by key of the content
        self._citations: list[Any] = list(content.get("citations") or ())
        self._joiner = SurrogateJoiner()

    def __repr__(self) -> str:
        return f"<OpenBlock {self._index}: {self.kind}>"

    @property
    def is_cited(self) -> bool:
        """Whether it is a text with citations."""
        return bool(self._citations)

    def start(self) -> Delta:
        """Return the delta of its start."""
        match self.kind:
            case "text" if not self._is_answer:
                return self._grow_text("text", _text(self._content.get("text")))
            case "thinking":
                keys = ("thinking", "signature")
                return self._thought({key: _text(self._content.get(key)) for key in keys})
            case "redacted_thinking":
                return Delta(thinking=(self._content,), thinking_key=THINKING_KEYS[0])
            case "tool_use" if self._number is not None:
                call, others = self._content, self._content.items()
                extra = {k: v for k, v in others if k not in _CALL_KEYS and v is not None}
                part = ToolCallDelta(
                    self._number, _text(call.get("id")), _text(call["name"]), extra=extra
                )
                return Delta(tool_calls=(part,))
            case _:
                return Delta()

    def grow(self, piece: Mapping[str, Any]) -> Delta:
        """Return the delta of a further piece."""
        kind = str(piece.get("type"))
        if kind == "citations_delta":
            self._citations.append(piece["citation"])
        key = _PIECES.get(kind)
        if key is None:
            return Delta()
        text = _text(piece[key])
        match key:
            case "text":
                return self._grow_text(key, text)
            case "partial_json":
                return self._grow_input(text)
            case _:
                return self._thought({key: text})

    def stop(self) -> Delta:
        """Return the delta of its end: the arguments of a call that came without any."""
        is_call = self._number is not None or self._is_answer
        if is_call and not self._joined("partial_json"):
            return self._grow_input(json.dumps(self._content.get("input") or {}))
        return Delta()

    def whole(self) -> dict[str, Any]:
        """Return the block as the API takes it back."""
        out = {key: value for key, value in self._content.items() if value is not None}
        out |= {key: self._joined(key) for key in self._texts if key != "partial_json"}
        if written := self._joined("partial_json"):
            out["input"] = _parsed(written)
        if self._citations:
            out["citations"] = self._citations
        return out

    def _grow_text(self, key: str, text: str) -> Delta:
        text = self._joiner.join(text)
        self._keep(key, text)
        return Delta(text)

    def _grow_input(self, text: str) -> Delta:
        text = self._joiner.join(text)
        self._keep("partial_json", text)
        if self._is_answer:
            return Delta(text)
        if self._number is None or not text:
            return Delta()
        return Delta(tool_calls=(ToolCallDelta(self._number, arguments=text),))

    def _thought(self, pieces: Mapping[str, str]) -> Delta:
        grown = {key: text for key, piece in pieces.items() if (text := self._joiner.join(piece))}
        for key, text in grown.items():
            self._keep(key, text)
        if not grown:
            return Delta()
        thought = grown.get("thinking", "")
        return Delta(
            reasoning=thought,
            thinking=({"type": "thinking", "index": self._index, **grown},),
            reasoning_key=REASONING_KEYS[0] if thought else "",
            thinking_key=THINKING_KEYS[0],
        )

    def _keep(self, key: str, text: str) -> None:
        if text:
            self._texts.setdefault(key, []).append(text)

    def _joined(self, key: str) -> str:
        return "".join(self._texts.get(key, ()))


def piece_of(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate a whole block into its start and one piece; the piece may be empty."""
    match content.get("type"):
        case "text":
            start = {**content, "text": ""}
            return start, {"type": "text_delta", "text": content.get("text") or ""}
        case "thinking":
            start = {**content, "thinking": "", "signature": content.get("signature")}
            return start, {"type": "thinking_delta", "thinking": content.get("thinking") or ""}
        case _:
            return dict(content), {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"unparsed": text}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.100}")
    return value
